//! Pictures of a run, as SVG: packets a second with their quartiles, one bar for each entry of a group.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::groups::LATENCY;
use super::latency::picture;
use super::record::{EntryRecord, GroupRecord};
use super::report::BenchReport;
use super::statistics::Spread;

const WIDTH: u32 = 900;
const ROW_HEIGHT: u32 = 26;
/// Of the title above and the scale below.
const FRAME_HEIGHT: u32 = 70;
const LABEL_WIDTH: u32 = 420;
const BAR: RGBColor = RGBColor(64, 120, 192);
pub const INK: RGBColor = RGBColor(60, 60, 60);

/// Every picture of a run, by the name of what it shows.
pub fn all(report: &BenchReport) -> Result<Vec<(String, String)>> {
    let mut charts = Vec::new();
    for group in &report.groups {
        charts.push((group.name.to_owned(), throughput(group)?));
    }
    if let Some(latency) = &report.latency {
        charts.push((LATENCY.to_owned(), picture::draw(latency)?));
    }
    Ok(charts)
}

/// In words, of a picture's name.
pub fn title(name: &str) -> String {
    if name == LATENCY { "Round trips by load".to_owned() } else { format!("Packets a second: {name}") }
}

/// Delivered packets a second of a group's entries, in their order.
fn throughput(group: &GroupRecord) -> Result<String> {
    let of = |entry: &EntryRecord| Some((format!("{}; {}", entry.what, entry.traffic), group.mpps(entry)?));
    let bars: Vec<(String, Spread)> = group.entries.iter().filter_map(of).collect();
    horizontal_bars(
        &format!("{}: Mpps on veth (a NIC with zero-copy: faster), median and quartiles", group.name),
        &bars,
    )
}

fn horizontal_bars(title: &str, bars: &[(String, Spread)]) -> Result<String> {
    let mut svg = String::new();
    let height = FRAME_HEIGHT + ROW_HEIGHT * bars.len() as u32;
    let longest = bars.iter().map(|(_, spread)| spread.high).fold(f64::MIN_POSITIVE, f64::max);
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16).into_font().color(&INK))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(LABEL_WIDTH)
            .build_cartesian_2d(0.0..longest * 1.15, 0.0..bars.len() as f64)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        // From the top down.
        let middle_of = |index: usize| bars.len() as f64 - index as f64 - 0.5;
        let shapes = bars.iter().enumerate().flat_map(|(index, (_, Spread { median, low, high, .. }))| {
            let middle = middle_of(index);
            [
                Rectangle::new([(0.0, middle - 0.32), (*median, middle + 0.32)], BAR.filled()),
                Rectangle::new([(*low, middle - 0.04), (*high, middle + 0.04)], INK.filled()),
            ]
        });
        chart.draw_series(shapes).map_err(failed)?;
        let right = TextStyle::from(("sans-serif", 13).into_font()).color(&INK);
        let figure = right.clone().pos(Pos::new(HPos::Left, VPos::Center));
        chart
            .draw_series(bars.iter().enumerate().map(|(index, (_, spread))| {
                let at = (spread.high + longest * 0.01, middle_of(index));
                Text::new(format!("{:.2}", spread.median), at, figure.clone())
            }))
            .map_err(failed)?;
        let label = right.pos(Pos::new(HPos::Right, VPos::Center));
        let (corner, _) = chart.plotting_area().get_pixel_range();
        for (index, (text, _)) in bars.iter().enumerate() {
            let (_, y) = chart.backend_coord(&(0.0, middle_of(index)));
            area.draw(&Text::new(text.as_str(), (corner.start - 8, y), label.clone())).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

/// A drawing that did not come about.
pub fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_name_and_its_figure() {
        let spread = |median| Spread { median, low: median * 0.9, high: median * 1.1, runs: 7 };
        let svg = horizontal_bars("who", &[("one <raw>".into(), spread(1.25)), ("other".into(), spread(0.5))]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in ["who", "one &lt;raw&gt;", "other", "1.25", "0.50"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert_eq!(svg.matches("<rect").count(), 1 + 2 * 2, "the ground, and two shapes a bar: {svg}");
    }
}
