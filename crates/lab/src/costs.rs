//! The table of a run's measurements.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::events::Measurement;

/// Costs of L2's operations, one column for each label.
pub fn table(measurements: &[Measurement]) -> String {
    if measurements.is_empty() {
        return String::new();
    }
    let mut labels: Vec<&str> = Vec::new();
    let mut operations: Vec<&str> = Vec::new();
    for measurement in measurements {
        let label = measurement.label.as_deref().unwrap_or("");
        if !labels.contains(&label) {
            labels.push(label);
        }
        // What nobody could measure has no row: the log says why.
        let is_new = !operations.contains(&measurement.operation.as_str());
        if is_new && measurement.ticks.is_some() {
            operations.push(&measurement.operation);
        }
    }
    // Plain first: what there was, then what the enlightenments make of it.
    labels.sort_by_key(|label| *label != "plain");

    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    let mut header = vec!["operation".to_owned()];
    for label in &labels {
        header.push((*label).to_owned());
        header.push("exits".to_owned());
    }
    table.set_header(header);
    for operation in operations {
        let mut row = vec![operation.to_owned()];
        for label in &labels {
            let figure = measurements
                .iter()
                .find(|m| m.label.as_deref().unwrap_or("") == *label && m.operation == operation);
            row.push(
                figure
                    .and_then(|f| f.ticks)
                    .map_or_else(|| "-".to_owned(), thousands),
            );
            row.push(
                figure
                    .and_then(|f| f.exits_l0)
                    .map_or_else(|| "-".to_owned(), |exits| format!("{exits:.1}")),
            );
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let counted = measurements.iter().find(|m| m.ticks.is_some());
    let repetitions = counted.map_or_else(String::new, |m| {
        format!(
            ", mean of {} after {} to warm up",
            m.repetitions.unwrap_or(0),
            m.warm_up.unwrap_or(0)
        )
    });
    let lines: String = table
        .lines()
        .map(|line| format!("  {}\n", line.trim_end()))
        .collect();
    format!(
        "\nCost of one operation of L2, in instructions of all levels, with its exits to L0{repetitions}:\n{lines}"
    )
}

/// A number with a comma before each group of three digits.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(label: &str, operation: &str, ticks: i64, exits: f64) -> Measurement {
        Measurement {
            label: Some(label.into()),
            operation: operation.into(),
            ticks: Some(ticks),
            median: None,
            repetitions: Some(500),
            warm_up: Some(50),
            exits_l0: Some(exits),
            counters: None,
            skipped: None,
        }
    }

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (-1234567, "-1,234,567"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_label_and_gaps_where_there_is_no_figure() {
        let mut skipped = figure("plain", "hv-flush-direct", 0, 0.0);
        (skipped.ticks, skipped.exits_l0, skipped.skipped) = (None, None, Some("no".into()));
        let measurements = [
            figure("enlightened", "cpuid", 3456, 2.0),
            figure("enlightened", "hv-flush-direct", 900, 1.0),
            figure("plain", "cpuid", 8765, 10.0),
            Measurement {
                operation: "l1-ipi".to_owned(),
                ..skipped.clone()
            },
            skipped,
        ];
        let text = table(&measurements);
        assert!(!text.contains("l1-ipi"), "nobody could measure it");
        let words = |start: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(start))
                .unwrap();
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words("operation"),
            ["operation", "plain", "exits", "enlightened", "exits"]
        );
        assert_eq!(words("cpuid"), ["cpuid", "8,765", "10.0", "3,456", "2.0"]);
        assert_eq!(
            words("hv-flush-direct"),
            ["hv-flush-direct", "-", "-", "900", "1.0"]
        );
        assert!(text.contains("mean of 500 after 50"));
    }
}
