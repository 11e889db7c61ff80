//! The roofline: rows as points, operations a second over operations a byte, under the roofs that were measured with them.

use std::fmt::Write;

use super::{
    measure::{Mode, Row},
    roofs::Limit,
};
use crate::{host, samples::median};

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
  .title { font-size: 14px; font-weight: 600; } .grid { stroke: var(--grid); } .roof { stroke: var(--ink); stroke-width: 1.4; fill: none; }
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

/// A roof as the median of what its rows were measured beside.
struct Line {
    name: String,
    /// Else of arithmetic.
    reads: bool,
    per_second: f64,
}

/// The picture of these rows.
pub fn svg(rows: &[Row]) -> String {
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
    let cpu = escaped(&host::cpu_model().unwrap_or_else(|| "this machine".into()));
    let title = format!("Kernels of doge-engine on {cpu}, {threads} threads");
    let _ = writeln!(out, "<title>{title}</title>\n<text class=\"title\" x=\"{LEFT}\" y=\"22\">{title}</text>");
    let key = WIDTH - RIGHT;
    let _ = writeln!(
        out,
        "<text text-anchor=\"end\" x=\"{key}\" y=\"22\"><tspan class=\"hot\">●</tspan> hot   <tspan class=\"cold\">●</tspan> cold</text>"
    );
    grid(&mut out, &axes);
    roofs(&mut out, &axes, &lines);
    dots(&mut out, &axes, &points, &kernels);
    legend(&mut out, &points, &kernels);
    out + "</svg>\n"
}

/// Roofs of the rows that ran on all threads; a lone thread's would double every line.
fn lines(points: &[&Row]) -> Vec<Line> {
    let threads = points.iter().map(|row| row.what.threads).max().unwrap_or(1);
    let mut lines: Vec<(String, bool, Vec<f64>)> = Vec::new();
    for row in points.iter().filter(|row| row.what.threads == threads) {
        match lines.iter_mut().find(|(name, _, _)| *name == row.roof_name) {
            Some((_, _, measured)) => measured.push(row.roof()),
            None => lines.push((row.roof_name.clone(), matches!(row.limit, Limit::Reading { .. }), vec![row.roof()])),
        }
    }
    lines.into_iter().map(|(name, reads, measured)| Line { name, reads, per_second: median(measured) }).collect()
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

fn roofs(out: &mut String, axes: &Axes, lines: &[Line]) {
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
            let (x, y, dy) = (x0 + 0.7 * (x1 - x0), y0 + 0.7 * (y1 - y0), if line.per_second < fastest { 11 } else { -4 });
            let place = format!("translate({x:.1} {y:.1}) rotate({angle:.1})");
            let _ = writeln!(
                out,
                "<text class=\"name\" transform=\"{place}\" dy=\"{dy}\">{} {giga:.0} GB/s</text>",
                escaped(&line.name)
            );
        } else {
            // From where the slowest memory reaches it.
            let from =
                if slowest.is_finite() { (line.per_second / slowest / 30.0).clamp(axes.x[0], axes.x[1]) } else { axes.x[0] };
            let (x0, x1, y) = (axes.x(from), WIDTH - RIGHT, axes.y(line.per_second));
            let _ = writeln!(out, "<path class=\"roof\" d=\"M{x0:.1} {y:.1}H{x1}\"/>");
            let (x, name) = (LEFT + 0.6 * (WIDTH - LEFT - RIGHT), escaped(&line.name));
            let _ = writeln!(out, "<text class=\"name\" x=\"{x:.1}\" y=\"{:.1}\">{name} {giga:.0} GOP/s</text>", y - 4.0);
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

/// A dot where the row is, and its number where there is room.
fn dots(out: &mut String, axes: &Axes, points: &[&Row], kernels: &[[&str; 4]]) {
    let at = |row: &Row| (axes.x(row.intensity()), axes.y(1e9 * row.gigaoperations_per_second()));
    let mut taken: Vec<(f64, f64)> = points.iter().map(|row| at(row)).collect();
    for row in points {
        let ((x, y), mode) = (at(row), row.what.mode.name());
        let number = kernels.iter().position(|other| *other == kernel(row)).map_or(0, |i| i + 1);
        let around = |i: i32| {
            let (radius, angle) = (9.0 + 3.0 * f64::from(i / 12), f64::from(i % 12 * 30).to_radians());
            (x + radius * angle.cos(), y - radius * angle.sin())
        };
        let free = |(x, y): &(f64, f64)| !taken.iter().any(|(a, b)| (x - a).abs() < 13.0 && (y - b).abs() < 9.0);
        let (u, v) = (0..240).map(around).find(free).unwrap_or(around(0));
        taken.push((u, v));
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
