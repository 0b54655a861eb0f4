//! The audit as a table for eyes.

use comfy_table::{ContentArrangement, Table, presets};

use super::{Kind, Part, Row};

/// All parts, or what fails of them alone.
pub fn text(parts: &[Part], problems: bool) -> String {
    let mut out = String::new();
    for (index, part) in parts.iter().enumerate() {
        let first = parts.first().filter(|_| index > 0);
        let rows: Vec<&Row> = part
            .rows
            .iter()
            .filter(|row| row.problem.is_some() || !problems && is_news(row, first))
            .collect();
        if !rows.is_empty() {
            out += &format!("{}\n{}\n", part.name, table(&rows));
        }
    }
    let failed = parts
        .iter()
        .map(|part| part.problems().count())
        .sum::<usize>();
    let looked = parts.iter().map(|part| part.rows.len()).sum::<usize>();
    let runs = parts.len();
    let plural = if runs == 1 { "run" } else { "runs" };
    out + &format!(
        "{runs} {plural}: {} passed, {failed} failed\n",
        looked - failed
    )
}

/// Whether a row of a later run says what the first run did not: what is off there is refused. The
/// rows that are the same in each run are shown once.
fn is_news(row: &Row, first: Option<&Part>) -> bool {
    let Some(first) = first else {
        return true;
    };
    let before = first
        .rows
        .iter()
        .find(|other| other.register == row.register && other.bits == row.bits);
    before.is_none_or(|before| before.kind != row.kind || before.how != row.how)
}

fn table(rows: &[&Row]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["register", "bit", "name", "shown", "exercise", "result"]);
    let mut last = "";
    for row in rows {
        let register = if row.register == last {
            ""
        } else {
            &row.register
        };
        last = &row.register;
        let result = match &row.problem {
            None => "ok".to_owned(),
            Some(why) => format!("FAILED: {why}"),
        };
        let name = match row.kind {
            Kind::Fact => "",
            _ => row.name.as_deref().unwrap_or("-"),
        };
        table.add_row([
            register,
            &row.bits,
            name,
            row.kind.word(),
            &row.how,
            &result,
        ]);
    }
    table
        .lines()
        .map(|line| format!("  {}\n", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bits: &str, kind: Kind, problem: Option<&str>) -> Row {
        Row {
            register: "CPUID 1 ECX".into(),
            bits: bits.into(),
            name: None,
            kind,
            how: "tried".into(),
            problem: problem.map(str::to_owned),
        }
    }

    fn part(name: &str, rows: Vec<Row>) -> Part {
        Part {
            name: name.into(),
            enlightenments: "all".into(),
            rows,
            words: Vec::new(),
        }
    }

    #[test]
    fn later_runs_show_what_is_new_and_the_filter_what_fails() {
        let parts = [
            part(
                "first",
                vec![
                    row("1", Kind::Shown, None),
                    row("2", Kind::Shown, Some("why")),
                ],
            ),
            part(
                "second",
                vec![row("1", Kind::Shown, None), row("2", Kind::Hidden, None)],
            ),
        ];
        let all = text(&parts, false);
        assert_eq!(all.matches("tried").count(), 3, "{all}");
        assert!(all.ends_with("2 runs: 3 passed, 1 failed\n"), "{all}");
        let problems = text(&parts, true);
        assert_eq!(problems.matches("tried").count(), 1, "{problems}");
        assert!(problems.contains("FAILED: why") && !problems.contains("second"));
    }
}
