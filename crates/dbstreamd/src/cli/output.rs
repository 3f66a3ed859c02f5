//! Standard output: colours where they are wanted, aligned tables, figures for people.

use std::fmt::Write as _;
use std::io::{BufWriter, IsTerminal, Stdout, Write};

use super::CliError;

/// Narrowest terminal that lines are fitted to; below it they may wrap.
const WIDTH_MIN: usize = 60;

/// A colour's role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Dim,
    Bold,
    Good,
    Change,
    Bad,
    Name,
}

/// Whether colours are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Style {
    pub(crate) colour: bool,
}

impl Style {
    /// Appends `text` painted.
    pub(crate) fn paint(self, paint: Paint, text: &str, out: &mut String) {
        let code = match paint {
            Paint::Dim => "2",
            Paint::Bold => "1",
            Paint::Good => "32",
            Paint::Change => "33",
            Paint::Bad => "31",
            Paint::Name => "36",
            Paint::Plain => "",
        };
        if self.colour && !code.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\x1b[{code}m{text}\x1b[0m");
        } else {
            out.push_str(text);
        }
    }
}

/// Buffered standard output.
#[derive(Debug)]
pub(crate) struct Output {
    writer: BufWriter<Stdout>,
    terminal: bool,
    style: Style,
}

impl Output {
    pub(crate) fn new() -> Self {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        // https://no-color.org
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let style = Style { colour: terminal && !refused && !dumb };
        Self { writer: BufWriter::with_capacity(64 * 1024, stdout), terminal, style }
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns of the terminal; none when the output is not one.
    pub(crate) fn width(&self) -> Option<usize> {
        let (width, _) = self.terminal.then(terminal_size::terminal_size).flatten()?;
        Some(usize::from(width.0).max(WIDTH_MIN))
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), CliError> {
        self.bytes(line.as_bytes())?;
        self.bytes(b"\n")
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.writer.write_all(bytes).map_err(|error| CliError::output(&error))
    }

    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.writer.flush().map_err(|error| CliError::output(&error))
    }

    /// Prints aligned columns under dim headings; columns of figures are set to the right.
    pub(crate) fn table(&mut self, headings: &[&str], rows: &[Vec<(Paint, String)>]) -> Result<(), CliError> {
        let text = |row: &Vec<(Paint, String)>, i: usize| row.get(i).map_or(0, |(_, text)| text.chars().count());
        let widths: Vec<usize> = headings
            .iter()
            .enumerate()
            .map(|(i, heading)| rows.iter().map(|row| text(row, i)).chain([heading.chars().count()]).max().unwrap_or(0))
            .collect();
        let figures: Vec<bool> = (0..headings.len())
            .map(|i| rows.iter().filter_map(|row| row.get(i)).all(|(_, t)| t.starts_with(|c: char| c.is_ascii_digit())))
            .collect();
        let heading_row: Vec<_> = headings.iter().map(|&heading| (Paint::Dim, heading.to_owned())).collect();
        for row in std::iter::once(&heading_row).chain(rows) {
            let mut line = String::new();
            for (((paint, text), width), figure) in row.iter().zip(&widths).zip(&figures) {
                let padding = " ".repeat(width.saturating_sub(text.chars().count()));
                if *figure {
                    line.push_str(&padding);
                }
                self.style.paint(*paint, text, &mut line);
                if !figure {
                    line.push_str(&padding);
                }
                line.push_str("  ");
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes, such as `1.4 MiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let mut scaled = bytes;
    let mut rest = 0;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if scaled < 1024 {
            break;
        }
        (scaled, rest, unit) = (scaled / 1024, scaled % 1024, larger);
    }
    match scaled {
        0..10 if unit != "B" => format!("{scaled}.{} {unit}", rest * 10 / 1024),
        _ => format!("{scaled} {unit}"),
    }
}

/// A number with thousands set apart, such as `12,345`.
pub(crate) fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How long ago, from a number of microseconds: `0.3 s`, `12 s`, `4 min`, `3 h`, `9 d`.
pub(crate) fn age_text(micros: i64) -> String {
    let tenths = micros.max(0) / 100_000;
    let seconds = tenths / 10;
    match seconds {
        0..10 => format!("{seconds}.{} s", tenths % 10),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let bytes = [0, 1023, 1024, 1536, 10 * 1024 * 1024, u64::MAX].map(bytes_text);
        assert_eq!(bytes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10 MiB", "16383 PiB"]);
        assert_eq!([0, 999, 1_000, 12_345_678].map(count_text), ["0", "999", "1,000", "12,345,678"]);
        let ages = [-5, 300_000, 12_000_000, 600_000_000, 7_200_000_000, 864_000_000_000].map(age_text);
        assert_eq!(ages, ["0.0 s", "0.3 s", "12 s", "10 min", "2 h", "10 d"]);
    }

    #[test]
    fn nothing_is_painted_without_colour() {
        let mut text = String::new();
        Style { colour: false }.paint(Paint::Bad, "x", &mut text);
        Style { colour: true }.paint(Paint::Bad, "x", &mut text);
        assert_eq!(text, "x\u{1b}[31mx\u{1b}[0m");
    }
}
