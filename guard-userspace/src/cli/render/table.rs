//! Columns.

use crate::cli::screen::Screen;

/// Rows under headings, each column as wide as its widest cell. Cells are expected to be escaped.
pub struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(headings: &'static [&'static str]) -> Self {
        Self {
            headings,
            rows: Vec::new(),
        }
    }

    /// One more row, with a cell for each heading.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.headings.len(), "a cell for each heading");
        self.rows.push(cells.into());
    }

    /// The lines. Each is cut to the terminal and then coloured by `paint`, which gets the line and
    /// the row's cells.
    pub fn render(
        &self,
        screen: &Screen,
        paint: impl Fn(&Screen, &str, &[String]) -> String,
    ) -> String {
        let widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, heading)| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0).max(heading.chars().count())
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> = cells
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            screen.clip(padded.join("  ").trim_end())
        };
        let mut out = screen.dim(&line(&mut self.headings.iter().copied()));
        out.push('\n');
        for row in &self.rows {
            out.push_str(&paint(
                screen,
                &line(&mut row.iter().map(String::as_str)),
                row,
            ));
            out.push('\n');
        }
        out
    }
}
