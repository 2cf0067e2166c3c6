//! A picture of round trips, as SVG: for each contender p50, p99 and p99.9 beside traffic at shares of its highest lossless
//! rate, on a scale of tenfolds.

use anyhow::Result;
use plotters::prelude::*;

use super::{LatencyGroupRecord, LatencyRecord, SHARES};
use crate::bench::chart::{INK, failed};

const PANEL_WIDTH: u32 = 230;
const HEIGHT: u32 = 380;
/// The legend stands above the highest point.
const LEGEND_ROOM: f64 = 6.0;
const COLORS: [RGBColor; 3] = [RGBColor(64, 120, 192), RGBColor(230, 145, 56), RGBColor(180, 60, 60)];
const NAMES: [&str; 3] = ["p50", "p99", "p99.9"];

/// Entries that were measured beside traffic.
pub fn draw(record: &LatencyGroupRecord) -> Result<String> {
    let busy = |entry: &LatencyRecord| -> Option<Vec<[f64; 3]>> {
        (0..SHARES.len()).map(|share| record.busy_ns(entry, share)).collect()
    };
    let panels: Vec<(&str, f64, Vec<[f64; 3]>)> = record
        .entries
        .iter()
        .filter_map(|entry| Some((entry.what.as_str(), entry.lossless_pps?, busy(entry)?)))
        .collect();
    let every = || panels.iter().flat_map(|(_, _, shares)| shares.iter().flatten()).map(|ns| ns / 1e3);
    let (lowest, highest) = (every().fold(f64::MAX, f64::min).min(10.0), every().fold(100.0, f64::max));
    let mut svg = String::new();
    {
        let width = PANEL_WIDTH * panels.len().max(1) as u32;
        let area = SVGBackend::with_string(&mut svg, (width, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let area = area
            .titled(
                "Round trip on veth, µs, by load: 10, 50, 90 % of each one's highest lossless rate",
                ("sans-serif", 15).into_font().color(&INK),
            )
            .map_err(failed)?;
        for (panel, (what, pps, shares)) in area.split_evenly((1, panels.len().max(1))).iter().zip(&panels) {
            let mut chart = ChartBuilder::on(panel)
                .caption(format!("{what}, {:.2} Mpps", pps / 1e6), ("sans-serif", 12).into_font().color(&INK))
                .margin(6)
                .x_label_area_size(24)
                .y_label_area_size(44)
                .build_cartesian_2d(0.0..100.0, (lowest * 0.8..highest * LEGEND_ROOM).log_scale())
                .map_err(failed)?;
            chart
                .configure_mesh()
                .x_labels(6)
                .x_label_formatter(&|share| format!("{share:.0} %"))
                .y_label_formatter(&|micros| format!("{micros:.0}"))
                .light_line_style(WHITE)
                .draw()
                .map_err(failed)?;
            for (quantile, (color, name)) in COLORS.into_iter().zip(NAMES).enumerate() {
                let points: Vec<(f64, f64)> =
                    SHARES.iter().zip(shares).map(|(share, at)| (100.0 * share, at[quantile] / 1e3)).collect();
                let dots = points.iter().map(|point| Circle::new(*point, 3, color.filled()));
                chart.draw_series(dots).map_err(failed)?;
                chart
                    .draw_series([PathElement::new(points, color.stroke_width(2))])
                    .map_err(failed)?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2)));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.8))
                .label_font(("sans-serif", 11))
                .draw()
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::latency::tests::{entry, record};

    #[test]
    fn everybody_who_was_measured_beside_traffic_has_a_panel() {
        let mut fresh = entry("only fresh", &[1000, 1000]);
        (fresh.lossless_pps, fresh.busy) = (None, Default::default());
        let of = record(vec![entry("one", &[9000, 9100]), entry("other", &[8000, 8100]), fresh], &[5.0, 5.0], 2);
        let svg = draw(&of).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["one, 0.80 Mpps", "other, 0.80 Mpps", "p50", "p99.9"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("only fresh"));
        // Three points for each quantile.
        assert!(svg.matches("<circle").count() >= 2 * 3 * 3);
    }
}
