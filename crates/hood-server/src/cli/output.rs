//! What goes to standard output: documents, texts and tables.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::terminal;

/// On a terminal narrower than this a table is left to the terminal to wrap: broken into slivers nobody
/// could read it.
const TABLE_COLUMNS_MIN: u16 = 80;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document, as the API gives it.
    Json,
}

pub(super) fn text(text: &str) -> Result<Exit, Failure> {
    write(text.trim_end_matches('\n'))
}

/// One document, and nothing else.
pub(super) fn json(value: &impl Serialize) -> Result<Exit, Failure> {
    let document = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new("cannot write the answer as JSON").because(error))?;
    write_json(&document)
}

/// One document on one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<Exit, Failure> {
    let document = serde_json::to_string(value)
        .map_err(|error| Failure::new("cannot write the answer as JSON").because(error))?;
    write_json(&document)
}

fn write_json(document: &str) -> Result<Exit, Failure> {
    if io::stdout().is_terminal() { write(&terminal::json(document)) } else { write(document) }
}

fn write(text: &str) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n"));
    written.and_then(|()| stdout.flush()).map_err(Failure::write)?;
    Ok(Exit::DONE)
}

/// A table without lines, which `awk` and people read alike. On a terminal it fits the width, and
/// its first column, which is what one copies, is never broken; off one it is as wide as it needs.
pub(super) fn table(head: &[&str], rows: Vec<Vec<Cell>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if io::stdout().is_terminal() && table.width().is_some_and(|width| width >= TABLE_COLUMNS_MIN) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    }
    table.set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if i == 0 { 0 } else { 1 }, 1));
        if i == 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
