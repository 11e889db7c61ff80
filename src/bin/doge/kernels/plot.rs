//! The roofline: rows as points, operations a second over operations a byte, under the roofs that were measured with them.

use std::{fmt::Write, time::SystemTime};

use serde_json::Value;

use super::{
    measure::{Mode, Row},
    roofs::Limit,
};
use crate::{machine, samples::median, version};

/// Of the plot, without the legend below.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;
const LEGEND_COLUMNS: usize = 3;
const LEGEND_LINE: f64 = 13.0;

/// Neutral tones of each half; everything inherits them.
const STYLE: &str = "
  svg { --paper: #ffffff; --ink: #1f2328; --faint: #8c959f; --grid: #d8dee4; --hot: #bc4c00; --cold: #0969da; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #0d1117; --ink: #e6edf3; --faint: #7d8590; --grid: #262c36; --hot: #ffa657; --cold: #79c0ff; }
  }
  .paper { fill: var(--paper); } text { fill: var(--ink); font: 11px system-ui, sans-serif; } .faint { fill: var(--faint); }
  .title { font-size: 14px; font-weight: 600; } .when { font-size: 10px; font-weight: 400; fill: var(--faint); }
  .grid { stroke: var(--grid); } .roof { stroke: var(--ink); stroke-width: 1.4; fill: none; }
  .name { font-size: 10px; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; } .leader { stroke: var(--faint); stroke-width: 0.5; }
  .hot { fill: var(--hot); } .cold { fill: var(--cold); } .number { font-size: 9px; text-anchor: middle; }
";

/// Both axes are logarithmic.
struct Axes {
    /// Operations a byte, and operations a second: the least and the most that is shown.
    x: [f64; 2],
    y: [f64; 2],
}

impl Axes {
    fn x(&self, intensity: f64) -> f64 {
        LEFT + (intensity / self.x[0]).log10() / (self.x[1] / self.x[0]).log10() * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, rate: f64) -> f64 {
        HEIGHT - BOTTOM - (rate / self.y[0]).log10() / (self.y[1] / self.y[0]).log10() * (HEIGHT - TOP - BOTTOM)
    }
}

/// Where something stands already: the middles of what is as wide as a number of two digits.
struct Taken(Vec<(f64, f64)>);

impl Taken {
    fn has_room(&self, (x, y): (f64, f64)) -> bool {
        !self.0.iter().any(|(a, b)| (x - a).abs() < 13.0 && (y - b).abs() < 9.0)
    }

    /// Takes the first of these places where a line of text has room, or else the first: where it begins, on a line that runs at
    /// this angle in degrees, `rise` above it.
    fn text(&mut self, text: &str, places: impl Iterator<Item = (f64, f64)> + Clone, angle: f64, rise: f64) -> (f64, f64) {
        let (sin, cos) = angle.to_radians().sin_cos();
        let pairs = text.chars().count().div_ceil(2);
        let middles = |(x, y): (f64, f64)| {
            let along = (0..pairs).map(|pair| 5.5 + 11.0 * pair as f64);
            along.map(|d| (x + d * cos + rise * sin, y + d * sin - rise * cos)).collect::<Vec<_>>()
        };
        let free = places.clone().find(|&place| middles(place).into_iter().all(|middle| self.has_room(middle)));
        let place = free.or_else(|| places.clone().next()).unwrap_or_default();
        self.0.extend(middles(place));
        place
    }
}

/// A roof as the median of what its rows were measured beside.
struct Line {
    name: String,
    /// Else of arithmetic.
    reads: bool,
    per_second: f64,
}

/// The picture of these rows.
pub fn svg(rows: &[Row], machine: &Value) -> String {
    // What does no arithmetic has no place here.
    let points: Vec<&Row> = rows.iter().filter(|row| row.what.cost.operations > 0).collect();
    let lines = lines(&points);
    let axes = axes(&points, &lines);
    let kernels = kernels(&points);
    let height = HEIGHT + LEGEND_LINE * (kernels.len().div_ceil(LEGEND_COLUMNS) as f64 + 1.5);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    let threads = points.iter().map(|row| row.what.threads).max().unwrap_or(1);
    let processor = escaped(machine::processor(machine).unwrap_or("this machine"));
    let title = format!("Kernels of doge-engine on {processor}, {threads} threads");
    let when = format!("{}, version {}", today(), version::short());
    let _ = writeln!(
        out,
        "<title>{title}, {when}</title>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"22\">{title} <tspan class=\"when\">{when}</tspan></text>"
    );
    let key = WIDTH - RIGHT;
    let _ = writeln!(
        out,
        "<text text-anchor=\"end\" x=\"{key}\" y=\"22\"><tspan class=\"hot\">●</tspan> hot   <tspan class=\"cold\">●</tspan> cold</text>"
    );
    grid(&mut out, &axes);
    let mut taken = Taken(points.iter().map(|row| at(&axes, row)).collect());
    roofs(&mut out, &axes, &lines, &mut taken);
    dots(&mut out, &axes, &points, &kernels, taken);
    legend(&mut out, &points, &kernels);
    out + "</svg>\n"
}

/// The day, in UTC.
fn today() -> String {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    now.strftime("%Y-%m-%d").to_string()
}

/// Roofs of the rows that ran on all threads; a lone thread's would double every line. Each level has its own.
fn lines(points: &[&Row]) -> Vec<Line> {
    let threads = points.iter().map(|row| row.what.threads).max().unwrap_or(1);
    let mut lines: Vec<(&Row, Vec<f64>)> = Vec::new();
    for &row in points.iter().filter(|row| row.what.threads == threads) {
        match lines.iter_mut().find(|(of, _)| (&of.roof_name, of.what.isa) == (&row.roof_name, row.what.isa)) {
            Some((_, measured)) => measured.push(row.roof()),
            None => lines.push((row, vec![row.roof()])),
        }
    }
    let one_level = lines.windows(2).all(|pair| pair[0].0.what.isa == pair[1].0.what.isa);
    let line = |(row, measured): (&Row, Vec<f64>)| Line {
        name: if one_level { row.roof_name.clone() } else { format!("{}: {}", row.what.isa, row.roof_name) },
        reads: matches!(row.limit, Limit::Reading { .. }),
        per_second: median(measured),
    };
    lines.into_iter().map(line).collect()
}

/// A little more than everything.
fn axes(points: &[&Row], lines: &[Line]) -> Axes {
    let around = |values: Vec<f64>| {
        let (low, high) = values.iter().fold((f64::INFINITY, 0f64), |(low, high), &x| (low.min(x), high.max(x)));
        if values.is_empty() {
            [0.1, 10.0]
        } else {
            [low / 1.5, high * 1.8]
        }
    };
    let rates = points.iter().map(|row| 1e9 * row.gigaoperations_per_second());
    Axes {
        x: around(points.iter().map(|row| row.intensity()).collect()),
        y: around(rates.chain(lines.iter().filter(|line| !line.reads).map(|line| line.per_second)).collect()),
    }
}

fn grid(out: &mut String, axes: &Axes) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let decades = |[low, high]: [f64; 2]| (low.log10().ceil() as i32..=high.log10().floor() as i32).map(|e| 10f64.powi(e));
    for intensity in decades(axes.x) {
        let x = axes.x(intensity);
        let _ = writeln!(out, "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>");
        let _ =
            writeln!(out, "<text class=\"faint\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{intensity}</text>", bottom + 16.0);
    }
    for rate in decades(axes.y) {
        let (y, giga) = (axes.y(rate), rate / 1e9);
        let _ = writeln!(out, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
        let _ =
            writeln!(out, "<text class=\"faint\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{giga}</text>", LEFT - 6.0, y + 4.0);
    }
    let _ = writeln!(out, "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\">operations per byte</text>", bottom + 34.0);
    let _ = writeln!(out, "<text transform=\"translate(16 {TOP}) rotate(-90)\" text-anchor=\"end\">GOP/s</text>");
}

fn roofs(out: &mut String, axes: &Axes, lines: &[Line], taken: &mut Taken) {
    let peak = lines.iter().filter(|line| !line.reads).map(|line| line.per_second).fold(axes.y[0], f64::max);
    let peak = if peak > axes.y[0] { peak } else { axes.y[1] };
    let slowest = lines.iter().filter(|line| line.reads).map(|line| line.per_second).fold(f64::INFINITY, f64::min);
    let fastest = lines.iter().filter(|line| line.reads).map(|line| line.per_second).fold(0.0, f64::max);
    for line in lines {
        let giga = line.per_second / 1e9;
        if line.reads {
            let from = (axes.y[0] / line.per_second).max(axes.x[0]);
            let to = (peak / line.per_second).min(axes.x[1]);
            let [x0, y0, x1, y1] = [axes.x(from), axes.y(from * line.per_second), axes.x(to), axes.y(to * line.per_second)];
            let angle = (y1 - y0).atan2(x1 - x0).to_degrees();
            let _ = writeln!(out, "<path class=\"roof\" d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}\"/>");
            // In the upper part, where few kernels are: the fastest above its line, the others below theirs.
            let (dy, rise) = if line.per_second < fastest { (11, -7.5) } else { (-4, 7.5) };
            let text = format!("{} {giga:.0} GB/s", line.name);
            let places = [0.7, 0.55, 0.8, 0.4, 0.25, 0.1].iter().map(|part| (x0 + part * (x1 - x0), y0 + part * (y1 - y0)));
            let (x, y) = taken.text(&text, places, angle, rise);
            let place = format!("translate({x:.1} {y:.1}) rotate({angle:.1})");
            let _ = writeln!(out, "<text class=\"name\" transform=\"{place}\" dy=\"{dy}\">{}</text>", escaped(&text));
        } else {
            // From where the slowest memory reaches it.
            let from =
                if slowest.is_finite() { (line.per_second / slowest / 30.0).clamp(axes.x[0], axes.x[1]) } else { axes.x[0] };
            let (x0, x1, y) = (axes.x(from), WIDTH - RIGHT, axes.y(line.per_second));
            let _ = writeln!(out, "<path class=\"roof\" d=\"M{x0:.1} {y:.1}H{x1}\"/>");
            let text = format!("{} {giga:.0} GOP/s", line.name);
            let places = [0.6, 0.45, 0.75, 0.3, 0.15].iter().map(|part| (LEFT + part * (WIDTH - LEFT - RIGHT), y));
            let (x, y) = taken.text(&text, places, 0.0, 7.5);
            let _ = writeln!(out, "<text class=\"name\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>", y - 4.0, escaped(&text));
        }
    }
}

/// What a point stands for, hot or cold.
fn kernel(row: &Row) -> [&str; 4] {
    [row.what.op, row.what.dtype, row.what.isa, &row.what.shape]
}

/// Each kernel once, in the order of the rows; its place is its number.
fn kernels<'a>(points: &[&'a Row]) -> Vec<[&'a str; 4]> {
    let mut kernels: Vec<[&str; 4]> = Vec::new();
    for row in points {
        if !kernels.contains(&kernel(row)) {
            kernels.push(kernel(row));
        }
    }
    kernels
}

fn at(axes: &Axes, row: &Row) -> (f64, f64) {
    (axes.x(row.intensity()), axes.y(1e9 * row.gigaoperations_per_second()))
}

/// A dot where the row is, and its number where there is room.
fn dots(out: &mut String, axes: &Axes, points: &[&Row], kernels: &[[&str; 4]], mut taken: Taken) {
    for row in points {
        let ((x, y), mode) = (at(axes, row), row.what.mode.name());
        let number = kernels.iter().position(|other| *other == kernel(row)).map_or(0, |i| i + 1);
        let around = |i: i32| {
            let (radius, angle) = (9.0 + 3.0 * f64::from(i / 12), f64::from(i % 12 * 30).to_radians());
            (x + radius * angle.cos(), y - radius * angle.sin())
        };
        let (u, v) = (0..240).map(around).find(|&place| taken.has_room(place)).unwrap_or(around(0));
        taken.0.push((u, v));
        if (u - x).hypot(v - y) > 12.0 {
            let _ = writeln!(out, "<path class=\"leader\" d=\"M{x:.1} {y:.1}L{u:.1} {v:.1}\"/>");
        }
        let _ = writeln!(
            out,
            "<circle class=\"{mode}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}</title></circle>",
            described(row)
        );
        let _ = writeln!(out, "<text class=\"number {mode}\" x=\"{u:.1}\" y=\"{:.1}\">{number}</text>", v + 3.0);
    }
}

fn legend(out: &mut String, points: &[&Row], kernels: &[[&str; 4]]) {
    let lines = kernels.len().div_ceil(LEGEND_COLUMNS).max(1);
    let levels: Vec<&str> = kernels.iter().map(|kernel| kernel[2]).collect();
    let one_level = levels.windows(2).all(|pair| pair[0] == pair[1]);
    for (i, &[op, dtype, isa, shape]) in kernels.iter().enumerate() {
        let x = LEFT + (i / lines) as f64 * (WIDTH - LEFT) / LEGEND_COLUMNS as f64;
        let y = HEIGHT + LEGEND_LINE * ((i % lines) as f64 + 1.0);
        let isa = if one_level { String::new() } else { format!(" {isa}") };
        let percent = |mode: Mode| {
            let row = points.iter().find(|row| kernel(row) == [op, dtype, kernels[i][2], shape] && row.what.mode == mode);
            row.map_or(String::new(), |row| format!(" <tspan class=\"{}\">{:.0} %</tspan>", mode.name(), row.percent_of_roof()))
        };
        let shares = percent(Mode::Hot) + &percent(Mode::Cold);
        let _ =
            writeln!(out, "<text class=\"name\" x=\"{x:.0}\" y=\"{y:.0}\">{} {op} {dtype}{isa} {shape}{shares}</text>", i + 1);
    }
}

fn described(row: &Row) -> String {
    let [op, dtype, isa, shape] = kernel(row);
    let (mode, percent) = (row.what.mode.name(), row.percent_of_roof());
    escaped(&format!("{op}/{dtype}/{isa}/{shape} {mode}: {percent:.0} % of {}", row.roof_name))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_leave_room_for_each_other() {
        let mut taken = Taken(vec![(15.0, -7.5)]);
        let places = [(0.0, 0.0), (100.0, 0.0), (200.0, 0.0)].into_iter();
        // The first place is a dot's, the second is free once.
        assert_eq!(taken.text("L3 179 GB/s", places.clone(), 0.0, 7.5), (100.0, 0.0));
        assert_eq!(taken.text("L2 179 GB/s", places.clone(), 0.0, 7.5), (200.0, 0.0));
        assert!(!taken.has_room((110.0, -8.0)) && !taken.has_room((250.0, -8.0)) && taken.has_room((150.0, 20.0)));
        // Where there is no room at all, it is the first.
        assert_eq!(taken.text("L1 179 GB/s", places, 0.0, 7.5), (0.0, 0.0));
    }
}
