//! What a run looks like while it goes on: throughput and times over time, and counters.
//!
//! A thread of its own draws, so that the load does not wait for the terminal; what it has no time
//! for is left out.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart as Plot, Dataset, GraphType, Widget as _};

use super::load::{Counts, Sample};
use super::report::{bytes, grouped, grouped_digits, shown};
use super::screen::Screen;

/// What of a run is shown.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// What is run.
    pub(super) title: String,
    /// How long it takes.
    pub(super) duration: Duration,
    /// What is counted over time.
    pub(super) subject: Subject,
    /// What is timed.
    pub(super) timed: &'static str,
}

/// What is counted over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Deliveries a second.
    Deliveries,
    /// Messages a second that came back.
    Messages,
    /// Connections that are open.
    Connections,
    /// Publications a second.
    Publications,
}

/// A chart that is being drawn.
#[derive(Debug)]
pub(super) struct Chart {
    /// `None` once there is nothing more to come.
    samples: Option<SyncSender<Sample>>,
    thread: Option<JoinHandle<()>>,
}

/// Between two frames.
pub(super) const FRAME: Duration = Duration::from_millis(250);

/// Frames that wait to be drawn.
const WAITING_MAX: usize = 2;

impl Chart {
    /// Begins to draw, where there is a terminal.
    pub(super) fn start(shape: Shape) -> Option<Self> {
        let screen = Screen::open()?;
        let (samples, received) = sync_channel(WAITING_MAX);
        let thread = thread::Builder::new().name("chart".into());
        let thread = thread.spawn(move || draw(&shape, screen, &received)).ok()?;
        Some(Self { samples: Some(samples), thread: Some(thread) })
    }

    /// Draws one more; not if the terminal has not taken the ones before.
    pub(super) fn show(&self, sample: Sample) {
        if let Some(samples) = &self.samples {
            // What is full will show a later one, what is gone none.
            let _ = samples.try_send(sample);
        }
    }

    /// Draws the last, and waits for it.
    pub(super) fn finish(mut self, sample: Sample) {
        if let Some(samples) = self.samples.take() {
            // The thread may have ended with its terminal.
            let _ = samples.send(sample);
        }
    }
}

impl Drop for Chart {
    fn drop(&mut self) {
        self.samples = None;
        if let Some(thread) = self.thread.take() {
            // A chart that can't be drawn is no reason to fail.
            let _ = thread.join();
        }
    }
}

fn draw(shape: &Shape, mut screen: Screen, samples: &Receiver<Sample>) {
    let mut history = History::default();
    while let Ok(sample) = samples.recv() {
        if !sample.at.is_zero() {
            history.push(shape.subject, &sample);
        }
        let (columns, lines) = screen.size();
        // A terminal that has gone has no use for more.
        if screen.draw(&frame(shape, &history, &sample, columns, lines)).is_err() {
            return;
        }
    }
}

/// What is plotted, of the whole time.
#[derive(Debug, Default)]
struct History {
    /// Seconds, and what of the subject.
    subject: Vec<(f64, f64)>,
    /// Seconds, and milliseconds; only of times in which something was timed.
    p50: Vec<(f64, f64)>,
    p99: Vec<(f64, f64)>,
    /// Where the sample before was.
    at: Duration,
    count: u64,
}

/// More points than any terminal has places for.
const POINTS_MAX: usize = 1024;

impl History {
    fn push(&mut self, subject: Subject, sample: &Sample) {
        let count = subject.count(&sample.counts);
        let (at, since) = (sample.at.as_secs_f64(), sample.at.saturating_sub(self.at));
        let value = match subject {
            Subject::Connections => count as f64,
            _ => count.saturating_sub(self.count) as f64 / since.as_secs_f64().max(1e-3),
        };
        push(&mut self.subject, (at, value));
        if sample.latency.count > 0 {
            push(&mut self.p50, (at, sample.latency.p50.as_secs_f64() * 1e3));
            push(&mut self.p99, (at, sample.latency.p99.as_secs_f64() * 1e3));
        }
        (self.at, self.count) = (sample.at, count);
    }

    fn latest(&self) -> f64 {
        self.subject.last().map_or(0.0, |(_, value)| *value)
    }
}

/// Appends a point; when there are too many, every two become one.
fn push(points: &mut Vec<(f64, f64)>, point: (f64, f64)) {
    if points.len() == POINTS_MAX {
        let halves = points.chunks(2).map(|pair| {
            let count = pair.len() as f64;
            let (x, y) = pair.iter().fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
            (x / count, y / count)
        });
        *points = halves.collect();
    }
    points.push(point);
}

impl Subject {
    fn count(self, counts: &Counts) -> u64 {
        match self {
            Self::Deliveries | Self::Messages => counts.messages,
            Self::Connections => counts.opened.saturating_sub(counts.closed),
            Self::Publications => counts.publications,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries a second",
            Self::Messages => "messages a second",
            Self::Connections => "connections",
            Self::Publications => "publications a second",
        }
    }

    /// What stands below the plots.
    fn counters(self, counts: &Counts) -> Vec<(&'static str, String)> {
        let Counts { publications, messages, lost, duplicates, .. } = *counts;
        let checked = [("lost", grouped(lost)), ("came twice", grouped(duplicates))];
        let received = ("received", bytes(counts.received_bytes));
        match self {
            Self::Deliveries => {
                let made = [("publications", grouped(publications))];
                let came = [("deliveries", grouped(messages)), received];
                made.into_iter().chain(came).chain(checked).collect()
            }
            Self::Messages => {
                [("messages", grouped(messages)), received].into_iter().chain(checked).collect()
            }
            Self::Connections => vec![
                ("opened", grouped(counts.opened)),
                ("refused", grouped(counts.refused)),
                ("closed", grouped(counts.closed)),
                ("pings answered", grouped(counts.pongs)),
            ],
            Self::Publications => vec![("publications", grouped(publications)), received],
        }
    }
}

/// Lines of the plots, if there is room for them.
const PLOT_LINES: u16 = 12;

/// Below this a plot shows nothing.
const PLOT_LINES_MIN: u16 = 5;

/// From here on there is room for two plots beside each other.
const TWO_PANELS: u16 = 72;

fn frame(shape: &Shape, history: &History, sample: &Sample, columns: u16, lines: u16) -> Buffer {
    // A line each for title and counters, and one for the cursor.
    let room = lines.saturating_sub(3);
    let plot_lines = if room < PLOT_LINES_MIN { 0 } else { room.min(PLOT_LINES) };
    let height = (plot_lines + 2).min(lines.saturating_sub(1).max(1));
    let area = Rect::new(0, 0, columns.clamp(1, 160), height);
    let mut frame = Buffer::empty(area);
    let constraints =
        [Constraint::Length(1), Constraint::Length(plot_lines), Constraint::Length(1)];
    let [title, plots, counters] = area.layout(&Layout::vertical(constraints));
    title_line(shape, sample).render(title, &mut frame);
    counter_line(shape, sample).render(counters, &mut frame);
    if plot_lines == 0 {
        return frame;
    }
    let seconds = shape.duration.as_secs_f64().max(sample.at.as_secs_f64());
    let latest = grouped_digits(&format!("{:.0}", history.latest()));
    let name = format!("{} {latest}", shape.subject.name());
    let subject =
        [Curve { points: &history.subject, marker: Marker::Braille, colour: Color::Cyan }];
    let subject = Panel { name: Line::from(name).cyan(), seconds, unit: "", curves: &subject };
    if columns < TWO_PANELS {
        subject.render(plots, &mut frame);
        return frame;
    }
    let times = [
        Curve { points: &history.p99, marker: Marker::Dot, colour: Color::Yellow },
        Curve { points: &history.p50, marker: Marker::Braille, colour: Color::Green },
    ];
    let times = Panel { name: times_line(shape, sample), seconds, unit: " ms", curves: &times };
    let halves = [Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1)];
    let [left, _, right] = plots.layout(&Layout::horizontal(halves));
    subject.render(left, &mut frame);
    times.render(right, &mut frame);
    frame
}

fn times_line<'a>(shape: &Shape, sample: &Sample) -> Line<'a> {
    let latency = &sample.latency;
    if latency.count == 0 {
        return Line::from(shape.timed);
    }
    Line::from(vec![
        Span::from(format!("{}: ", shape.timed)),
        Span::from(format!("p50 {}", shown(latency.p50))).green(),
        Span::from(", "),
        Span::from(format!("p99 {}", shown(latency.p99))).yellow(),
    ])
}

fn title_line<'a>(shape: &'a Shape, sample: &Sample) -> Line<'a> {
    let (at, of) = (sample.at.as_secs_f64(), shape.duration.as_secs_f64());
    let digits = usize::from(of < 10.0);
    let stands = match sample.at.is_zero() {
        true => format!("connecting: {}", grouped(sample.counts.opened)),
        false => format!("{at:.1} s of {of:.digits$} s"),
    };
    let title = Span::from(shape.title.as_str()).bold();
    Line::from(vec![title, Span::from(format!("  {stands}; Ctrl-C ends it"))])
}

fn counter_line<'a>(shape: &Shape, sample: &Sample) -> Line<'a> {
    let mut spans = Vec::new();
    for (name, value) in shape.subject.counters(&sample.counts) {
        let is_bad = matches!(name, "lost" | "came twice" | "refused" | "closed") && value != "0";
        let value = Span::from(value).bold();
        spans.push(Span::from(format!("{name} ")));
        spans.push(if is_bad { value.red() } else { value });
        spans.push(Span::from("   "));
    }
    Line::from(spans)
}

struct Curve<'a> {
    points: &'a [(f64, f64)],
    marker: Marker,
    colour: Color,
}

/// A name, and below it curves over time.
struct Panel<'a> {
    name: Line<'a>,
    seconds: f64,
    unit: &'static str,
    curves: &'a [Curve<'a>],
}

impl Panel<'_> {
    fn render(self, area: Rect, frame: &mut Buffer) {
        let parts = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]);
        let [name, plot] = area.layout(&parts);
        self.name.render(name, frame);
        let points = self.curves.iter().flat_map(|it| it.points);
        // Some room above, or the highest would be in the frame.
        let top = ceiling(points.fold(0.0, |max: f64, it| max.max(it.1)) * 1.05);
        let datasets = self.curves.iter().map(|it| {
            let set = Dataset::default().data(it.points).marker(it.marker);
            set.graph_type(GraphType::Line).style(Style::new().fg(it.colour))
        });
        let times = ["0 s".to_owned(), format!("{:.0} s", self.seconds)];
        let values = [0.0, top].map(|it| format!("{}{}", short(it), self.unit));
        Plot::new(datasets.collect())
            .x_axis(Axis::default().bounds([0.0, self.seconds]).labels(times))
            .y_axis(Axis::default().bounds([0.0, top]).labels(values))
            .legend_position(None)
            .render(plot, frame);
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|it| it * power).find(|it| *it >= value).unwrap_or(value)
}

/// A round number in few places: `500k`, `2M`, `0.5`.
fn short(value: f64) -> String {
    match value {
        it if it >= 1e6 => format!("{}M", it / 1e6),
        it if it >= 1e3 => format!("{}k", it / 1e3),
        // A power of ten is not always exact.
        it => format!("{}", (it * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::load::Latency;

    fn shape() -> Shape {
        Shape {
            title: "bench fanout".into(),
            duration: Duration::from_secs(10),
            subject: Subject::Deliveries,
            timed: "publish to receive",
        }
    }

    fn sample(seconds: u64, messages: u64) -> Sample {
        let counts = Counts { messages, lost: 1, ..Counts::default() };
        let latency = Latency { count: 1, p50: Duration::from_millis(2), ..Latency::default() };
        Sample { at: Duration::from_secs(seconds), counts, latency }
    }

    #[test]
    fn a_frame_fits_every_terminal() {
        let mut history = History::default();
        for second in 1..=10 {
            history.push(Subject::Deliveries, &sample(second, second * 1000));
        }
        for columns in [1, 2, 20, 71, 72, 80, 500] {
            for lines in [1, 2, 3, 7, 8, 24, 100] {
                let frame = frame(&shape(), &history, &sample(10, 10_000), columns, lines);
                let Rect { width, height, .. } = frame.area;
                assert!(width <= columns && height < lines.max(2), "{columns} × {lines}");
            }
        }
    }

    #[test]
    fn a_frame_has_what_was_counted() {
        let mut history = History::default();
        history.push(Subject::Deliveries, &sample(1, 1000));
        history.push(Subject::Deliveries, &sample(3, 5000));
        let frame = frame(&shape(), &history, &sample(3, 5000), 100, 24);
        let lines: Vec<String> = frame
            .content
            .chunks(100)
            .map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect())
            .collect();
        assert!(lines[0].starts_with("bench fanout  3.0 s of 10 s"), "{}", lines[0]);
        let plots = lines[1..13].join("\n");
        for part in ["deliveries a second 2,000", "publish to receive: p50 2.00 ms", "10 s", "5 ms"]
        {
            assert!(plots.contains(part), "{part}: {plots}");
        }
        assert!(lines[13].contains("deliveries 5,000") && lines[13].contains("lost 1"));
    }

    #[test]
    fn points_are_bounded_and_keep_their_mean() {
        let mut points = Vec::new();
        for at in 0..100_000_u32 {
            push(&mut points, (f64::from(at), 7.0));
        }
        assert!(points.len() <= POINTS_MAX && points.iter().all(|it| (it.1 - 7.0).abs() < 1e-9));
        assert!(points.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, expect) in
            [(0.0, "1"), (0.4, "0.5"), (1.0, "1"), (3.0, "5"), (720_000.0, "1M"), (15e5, "2M")]
        {
            assert_eq!(short(ceiling(value)), expect, "{value}");
        }
    }
}
