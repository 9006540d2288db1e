//! Frames on a terminal, in place: each is drawn over the one before.
//!
//! A frame is a few lines where the cursor is, not a screen of its own. The cursor is moved and lines
//! are written, and that is all that is asked of the terminal: it stays in its mode, the cursor is
//! shown, and nothing is ever to be put back, however the process ends. The last frame stays.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// Where frames are drawn: standard error.
#[derive(Debug)]
pub(super) struct Screen {
    has_colours: bool,
    /// The columns that each line of the last frame has.
    drawn: Vec<u16>,
}

impl Screen {
    /// Standard error, if it is a terminal that can be drawn on.
    pub(super) fn open() -> Option<Self> {
        let error = io::stderr();
        let is_able = std::env::var_os("TERM").map_or(cfg!(windows), |it| it != "dumb");
        let has_colours = anstream::AutoStream::choice(&error) != anstream::ColorChoice::Never;
        (error.is_terminal() && is_able).then(|| Self { has_colours, drawn: Vec::new() })
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (u16, u16) {
        let size = terminal_size::terminal_size_of(io::stderr());
        size.map_or((80, 24), |(columns, lines)| (columns.0, lines.0))
    }

    /// Draws a frame, which is not as high as the terminal.
    pub(super) fn draw(&mut self, frame: &Buffer) -> io::Result<()> {
        let (columns, _) = self.size();
        let (text, drawn) = compose(frame, &self.drawn, columns, self.has_colours);
        self.drawn = drawn;
        // In one write, so that nobody sees half of it.
        let mut error = io::stderr().lock();
        error.write_all(text.as_bytes())?;
        error.flush()
    }
}

/// What draws `frame` over one whose lines had so many columns, and the columns of its own. A line
/// that has become wider than the terminal since takes several.
fn compose(frame: &Buffer, before: &[u16], columns: u16, has_colours: bool) -> (String, Vec<u16>) {
    let mut text = String::from("\r");
    let up: u16 = before.iter().map(|it| it.div_ceil(columns.max(1)).max(1)).sum();
    if up > 0 {
        // Writing to a string can't fail, here and below.
        let _ = write!(text, "\x1b[{up}A");
    }
    let width = usize::from(frame.area.width).max(1);
    let mut drawn = Vec::new();
    for line in frame.content.chunks(width) {
        let end = line.iter().rposition(|it| it.symbol() != " ").map_or(0, |at| at + 1);
        let line = line.get(..end).unwrap_or_default();
        let mut style = Style::new();
        for cell in line {
            let next = if has_colours { style_of(cell) } else { Style::new() };
            if next != style {
                let _ = write!(text, "{style:#}{next}");
                style = next;
            }
            text.push_str(cell.symbol());
        }
        let _ = writeln!(text, "{style:#}\x1b[K");
        drawn.push(u16::try_from(end).unwrap_or(u16::MAX));
    }
    // What is left of a higher one.
    text.push_str("\x1b[J");
    (text, drawn)
}

fn style_of(cell: &Cell) -> Style {
    let mut style = Style::new();
    if cell.modifier.contains(Modifier::BOLD) {
        style = style.bold();
    }
    if cell.modifier.contains(Modifier::DIM) {
        style = style.dimmed();
    }
    let colour = match cell.fg {
        Color::Cyan => AnsiColor::Cyan,
        Color::Green => AnsiColor::Green,
        Color::Red => AnsiColor::Red,
        Color::Yellow => AnsiColor::Yellow,
        _ => return style,
    };
    style.fg_color(Some(colour.into()))
}

#[cfg(test)]
mod tests {
    use ratatui::style::Style;

    use super::*;

    #[test]
    fn a_frame_is_drawn_over_the_one_before() {
        let frame = Buffer::with_lines(["ab ", "   "]);
        let (text, drawn) = compose(&frame, &[], 80, false);
        assert_eq!((text.as_str(), drawn), ("\rab\x1b[K\n\x1b[K\n\x1b[J", vec![2, 0]));
        let (text, _) = compose(&frame, &[2, 0], 80, false);
        assert!(text.starts_with("\r\x1b[2Aab"), "{text:?}");
        // In a terminal of one column "ab" has become two lines.
        let (text, _) = compose(&frame, &[2, 0], 1, false);
        assert!(text.starts_with("\r\x1b[3Aab"), "{text:?}");
    }

    #[test]
    fn colours_end_where_they_should() {
        let mut frame = Buffer::with_lines(["abc"]);
        frame[(1, 0)].set_style(Style::new().fg(Color::Red));
        let (text, _) = compose(&frame, &[], 80, true);
        assert_eq!(text, "\ra\x1b[31mb\x1b[0mc\x1b[K\n\x1b[J");
        let (text, _) = compose(&frame, &[], 80, false);
        assert_eq!(text, "\rabc\x1b[K\n\x1b[J");
    }
}
