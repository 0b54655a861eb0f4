//! Results as tables for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use hyperv::enlightenments::Enlightenment;
use owo_colors::OwoColorize;

use super::goals::{self, OPERATIONS, RATIO};
use super::plan::WORTH;
use super::results::{Figure, Results};
use super::saving;
use crate::costs::thousands;

/// A column's head, and to which side its cells go.
pub struct Column<'a> {
    head: &'a str,
    side: CellAlignment,
}

impl<'a> Column<'a> {
    /// A column of words.
    pub fn left(head: &'a str) -> Self {
        let side = CellAlignment::Left;
        Self { head, side }
    }

    /// A column of numbers.
    pub fn right(head: &'a str) -> Self {
        let side = CellAlignment::Right;
        Self { head, side }
    }
}

/// A table without lines, two blanks before each row.
pub fn grid(columns: &[Column], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().map(|column| column.head));
    for row in rows {
        table.add_row(row);
    }
    for (drawn, column) in table.column_iter_mut().zip(columns) {
        drawn.set_cell_alignment(column.side);
    }
    table
        .lines()
        .map(|line| format!(" {}\n", line.trim_end()))
        .collect()
}

/// The configurations whose instructions are columns beside those with everything on.
const PLAINS: &[&str] = &["shadowed", "plain"];

/// All tables.
pub fn text(results: &Results, colour: bool) -> String {
    let mut out = format!(
        "\nhynest, {}: {} ({}), L1 Linux {}\n",
        results.date, results.emulator, results.cpu_model, results.kernel
    );
    for part in [
        operations(results, colour),
        worth(results),
        accesses(results),
        saving::text(&results.saving),
    ] {
        if !part.is_empty() {
            out += "\n";
            out += &part;
        }
    }
    out
}

fn number(figure: Option<i64>) -> String {
    figure.map_or_else(|| "-".to_owned(), thousands)
}

fn exits(figure: Option<&Figure>) -> String {
    let exits = figure.and_then(|figure| figure.exits);
    exits.map_or_else(|| "-".to_owned(), tenths)
}

/// Rounded before it is shown: no "-0.0".
fn tenths(number: f64) -> String {
    format!("{:.1}", (number * 10.0).round() / 10.0 + 0.0)
}

/// Every operation, beside what it costs elsewhere and what it should cost.
fn operations(results: &Results, colour: bool) -> String {
    let plains: Vec<&str> = PLAINS
        .iter()
        .copied()
        .filter(|name| results.configuration(name).is_some())
        .collect();
    if results.configuration("enlightened").is_none() && plains.is_empty() {
        return String::new();
    }
    let mut columns = vec![
        Column::left("operation"),
        Column::right("one level"),
        Column::right("KVM as L0"),
        Column::right("goal"),
        Column::right("enlightened"),
        Column::right("exits"),
        Column::right("over goal"),
    ];
    columns.extend(plains.iter().map(|name| Column::right(name)));
    let mut rows = Vec::new();
    let (mut met, mut missed) = (0, 0);
    for operation in OPERATIONS {
        let enlightened = results.figure("enlightened", operation.name);
        let instructions = enlightened.map(|figure| figure.instructions);
        let over = match (instructions, operation.goal) {
            (Some(now), Some(goal)) if now > goal => {
                missed += 1;
                format!("+{} !", thousands(now - goal))
            }
            (Some(_), Some(_)) => {
                met += 1;
                "met".to_owned()
            }
            _ => "-".to_owned(),
        };
        let mut row = vec![
            operation.name.to_owned(),
            number(operation.one_level),
            number(operation.peer),
            number(operation.goal),
            number(instructions),
            exits(enlightened),
            over,
        ];
        for name in &plains {
            let figure = results.figure(name, operation.name);
            row.push(number(figure.map(|f| f.instructions)));
        }
        rows.push(row);
    }
    let mut out = String::from(
        "Instructions of one operation, all levels together (mean), and exits to L0 when enlightened.\n\
         'One level' (no nesting) and 'KVM as L0' (at its best) are constants, measured in the same emulator.\n",
    );
    out += &painted(&grid(&columns, &rows), colour);
    if met + missed > 0 {
        out += &format!("  {met} goals met, {missed} missed (!)\n");
    }
    out + &ratio(results)
}

/// How many times cheaper an L2 CPUID is with the enlightened VMCS.
fn ratio(results: &Results) -> String {
    let cpuid = |name| results.figure(name, "cpuid").map(|f| f.instructions as f64);
    let mut out = String::new();
    for name in PLAINS {
        if let (Some(plain), Some(enlightened)) = (cpuid(name), cpuid("enlightened")) {
            let ratio = plain / enlightened.max(1.0);
            let verdict = match (*name, ratio >= RATIO) {
                ("plain", true) => format!("; goal {RATIO}, met"),
                ("plain", false) => format!("; goal {RATIO}, missed (!)"),
                _ => String::new(),
            };
            out += &format!("  CPUID, {name} to enlightened: {ratio:.2} to 1{verdict}\n");
        }
    }
    out
}

/// Missed goals in red, met ones in green.
fn painted(table: &str, colour: bool) -> String {
    if !colour {
        return table.to_owned();
    }
    let paint = |line: &str| {
        let word = line.split(' ').find(|word| word.starts_with('+'));
        let line = match word {
            Some(word) => {
                let marked = format!("{word} !");
                line.replacen(&marked, &marked.red().to_string(), 1)
            }
            None => line.replacen(" met", &" met".green().to_string(), 1),
        };
        line + "\n"
    };
    table.lines().map(paint).collect()
}

/// Every enlightenment: the same with it and without it.
fn worth(results: &Results) -> String {
    let mut rows = Vec::new();
    for worth in WORTH {
        let with = results.figure(worth.with.0, worth.with.1);
        let without = results.figure(worth.without.0, worth.without.1);
        // Half a row is better than a figure that is nowhere; but what everything but the plain step has in
        // common is in the table above.
        if without.is_none() && (with.is_none() || worth.with.0 == "enlightened") {
            continue;
        }
        let instructions = |figure: Option<&Figure>| figure.map(|f| f.instructions);
        let (on, off) = (instructions(with), instructions(without));
        let exits_of = |figure: Option<&Figure>| figure.and_then(|f| f.exits);
        let fewer = exits_of(without)
            .zip(exits_of(with))
            .map(|(off, on)| off - on);
        rows.push(vec![
            worth.enlightenment.name().to_owned(),
            worth.with.1.to_owned(),
            number(on),
            number(off),
            number(off.zip(on).map(|(off, on)| off - on)),
            exits(with),
            exits(without),
            fewer.map_or_else(|| "-".to_owned(), tenths),
        ]);
    }
    if rows.is_empty() {
        return String::new();
    }
    let columns = [
        Column::left("enlightenment"),
        Column::left("operation"),
        Column::right("with"),
        Column::right("without"),
        Column::right("saves"),
        Column::right("exits with"),
        Column::right("without"),
        Column::right("saves"),
    ];
    let mut out = String::from(
        "What each enlightenment saves: instructions, and exits to L0, of the same with it and without it.\n",
    );
    out += &grid(&columns, &rows);
    let flushes = rows
        .iter()
        .any(|row| row[0] == Enlightenment::DirectFlush.name());
    if flushes {
        out += "  Without direct-flush, L1 answers the flush (hv-flush). ";
        out += "tlb-flush and ipi: of L1, on two VPs.\n";
    }
    let reads = rows
        .iter()
        .any(|row| row[0] == Enlightenment::Reenlightenment.name());
    if reads {
        out += "  Reenlightenment: L2 reads its TSC after another rate, when L1 has taken note of it, and before.\n";
    }
    out
}

/// What L0 touches between an exit of L2 and the entry that follows.
fn accesses(results: &Results) -> String {
    let counters = [
        ("L0's VMREADs", "l0-vmreads"),
        ("VMWRITEs", "l0-vmwrites"),
        ("words read", "l1-page-reads"),
        ("written", "l1-page-writes"),
        ("L1's VMREADs", "vmreads"),
        ("VMWRITEs", "vmwrites"),
    ];
    let mut rows = Vec::new();
    for one in results.configurations.iter().filter(|c| c.counts_accesses) {
        for (operation, figure) in &one.operations {
            let mut row = vec![operation.clone(), one.name.clone()];
            row.extend(counters.iter().map(|(_, counter)| {
                let count = figure.counters.get(*counter);
                count.map_or_else(|| "-".to_owned(), |count| format!("{count:.1}"))
            }));
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let mut columns = vec![Column::left("operation"), Column::left("configuration")];
    columns.extend(counters.iter().map(|(head, _)| Column::right(head)));
    let mut out = String::from(
        "What L0 touches for one operation: its own VMREADs and VMWRITEs, words of L1's pages (enlightened\n\
         VMCS, MSR bitmap), and L1's VMREADs and VMWRITEs that exit. By an L0 that was built to count.\n",
    );
    out += &grid(&columns, &rows);
    out
}

/// The table of the README, in Markdown.
pub fn markdown(results: &Results) -> String {
    let plains: Vec<&str> = PLAINS
        .iter()
        .copied()
        .filter(|name| results.configuration(name).is_some())
        .collect();
    let mut out = String::from("| operation of L2 | one level | KVM as L0 | hynest as L0 |");
    for name in &plains {
        out += &format!(" hynest, {name} |");
    }
    out += "\n| --- | --- | --- | --- |";
    out += &" --- |".repeat(plains.len());
    out += "\n";
    for operation in OPERATIONS {
        let enlightened = results.figure("enlightened", operation.name);
        let figure = number(enlightened.map(|figure| figure.instructions));
        let figure = match figure.as_str() {
            "-" => figure,
            _ => format!("**{figure}**"),
        };
        out += &format!(
            "| {} | {} | {} | {figure} |",
            operation.label,
            number(operation.one_level),
            number(operation.peer)
        );
        for name in &plains {
            let figure = results.figure(name, operation.name);
            out += &format!(" {} |", number(figure.map(|f| f.instructions)));
        }
        out += "\n";
    }
    out += "\n| enlightenment | operation | with | without | exits with | without |\n";
    out += "| --- | --- | --- | --- | --- | --- |\n";
    for worth in WORTH {
        let with = results.figure(worth.with.0, worth.with.1);
        let without = results.figure(worth.without.0, worth.without.1);
        let (Some(on), Some(off)) = (with, without) else {
            continue;
        };
        out += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            worth.enlightenment.name(),
            label(worth.with.1),
            thousands(on.instructions),
            thousands(off.instructions),
            exits(with),
            exits(without)
        );
    }
    out + &format!(
        "\nMeasured {} by `cargo hynest bench`: {} ({}), L1 Linux {}.\n",
        results.date, results.emulator, results.cpu_model, results.kernel
    )
}

/// What an operation is called in the README.
fn label(operation: &str) -> &str {
    match operation {
        "l1-clock" => "L1 reads the time",
        "rdtsc" => "L2 reads its TSC, when L1 has taken note of another rate and before",
        "l1-tlb-flush" => "L1 flushes another VP's TLB, twice a permission",
        "l1-ipi" => "L1 interrupts another VP",
        _ => goals::operation(operation).map_or(operation, |known| known.label),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    fn sample() -> Results {
        let mut results = results(&[
            ("enlightened", "cpuid", 1_927, 2.0),
            ("enlightened", "rdmsr", 1_900, 2.0),
            ("enlightened", "zap", 420_372, 105.2),
            ("enlightened", "hv-flush", 3_569, 3.0),
            ("enlightened", "hv-flush-direct", 499, 1.0),
            ("plain", "cpuid", 3_988, 9.1),
            ("plain", "zap", 124_399, 119.2),
            ("no-gpa-flush", "zap", 422_000, 106.0),
            ("accesses", "cpuid", 2_500, 2.0),
        ]);
        for one in &mut results.configurations {
            one.counts_accesses = one.name == "accesses";
            for figure in one.operations.values_mut() {
                figure.counters.insert("l0-vmreads".into(), 20.5);
            }
        }
        results
    }

    fn words(text: &str, start: &str) -> Vec<String> {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(start))
            .unwrap_or_else(|| panic!("no {start} in {text}"));
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn goals_met_and_missed_are_told_apart() {
        let text = text(&sample(), false);
        assert_eq!(
            words(&text, "cpuid"),
            [
                "cpuid", "975", "12,069", "1,800", "1,927", "2.0", "+127", "!", "3,988"
            ]
        );
        assert!(words(&text, "rdmsr ").contains(&"met".to_owned()));
        assert!(text.contains("2 goals met, 3 missed (!)"), "{text}");
        assert!(text.contains("plain to enlightened: 2.07 to 1; goal 2.27, missed (!)"));
    }

    #[test]
    fn an_enlightenment_is_shown_where_both_figures_are_there() {
        let text = text(&sample(), false);
        assert_eq!(
            words(&text, "gpa-flush"),
            [
                "gpa-flush",
                "zap",
                "420,372",
                "422,000",
                "1,628",
                "105.2",
                "106.0",
                "0.8"
            ]
        );
        assert_eq!(
            words(&text, "direct-flush")[2..5],
            ["499", "3,569", "3,070"]
        );
        assert!(!text.contains("tsc-page"));

        let alone = super::text(&results(&[("no-gpa-flush", "zap", 422_000, 106.0)]), false);
        assert_eq!(words(&alone, "gpa-flush")[2..5], ["-", "422,000", "-"]);
    }

    #[test]
    fn the_tables_fit_a_terminal() {
        let plain = text(&sample(), false);
        for line in plain.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(!plain.contains('\u{1b}'));
        let painted = text(&sample(), true);
        assert!(painted.contains("\u{1b}[31m+127 !"), "{painted}");
        assert!(painted.contains("\u{1b}[32m met"));
    }

    #[test]
    fn an_account_of_accesses_only_where_they_were_counted() {
        let text = text(&sample(), false);
        assert!(text.contains("20.5"));
        let none = results(&[("enlightened", "cpuid", 1, 1.0)]);
        assert!(!super::text(&none, false).contains("touches"));
    }

    #[test]
    fn markdown_has_as_many_cells_in_each_row() {
        let text = markdown(&sample());
        let table = text.lines().take_while(|line| line.starts_with('|'));
        let cells: Vec<usize> = table.map(|line| line.matches('|').count()).collect();
        assert_eq!(cells.len(), OPERATIONS.len() + 2);
        assert!(cells.iter().all(|&count| count == cells[0]), "{text}");
        assert!(text.contains("| CPUID | 975 | 12,069 | **1,927** | 3,988 |"));
        assert!(text.contains("Measured 2026-11-22 by"));
    }
}
