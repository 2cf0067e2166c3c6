//! The picture: a bar for each case, cut into its stages.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::CaseFigures;

const WIDTH: u32 = 900;
const ROW_HEIGHT: u32 = 44;
/// Of the title above, and the scale and the key below.
const FRAME_HEIGHT: u32 = 150;
const INK: RGBColor = RGBColor(60, 60, 60);
/// One for each stage, told apart by who does not see colours, too: dark and light alternate.
const COLOURS: [RGBColor; 8] = [
    RGBColor(170, 170, 170),
    RGBColor(38, 84, 150),
    RGBColor(130, 180, 230),
    RGBColor(150, 110, 60),
    RGBColor(30, 120, 90),
    RGBColor(240, 170, 80),
    RGBColor(150, 60, 60),
    RGBColor(205, 205, 205),
];

/// As SVG. First packets have a scale of their own: a bar is as long as its longest neighbour allows.
pub(super) fn draw(figures: &[CaseFigures]) -> Result<String> {
    let mut svg = String::new();
    let height = FRAME_HEIGHT + ROW_HEIGHT * figures.len() as u32;
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let ink = TextStyle::from(("sans-serif", 13).into_font()).color(&INK);
        let title = TextStyle::from(("sans-serif", 16).into_font()).color(&INK);
        area.draw(&Text::new("Nanoseconds of a packet, stage by stage", (12, 12), title)).map_err(failed)?;
        let label = ink.clone().pos(Pos::new(HPos::Right, VPos::Center));
        let figure = ink.clone().pos(Pos::new(HPos::Left, VPos::Center));
        for (row, case) in figures.iter().enumerate() {
            // A case of first packets would make all others invisible.
            let alike = figures.iter().filter(|other| (other.new_percent > 0) == (case.new_percent > 0));
            let longest = alike.map(|other| other.ns_per_packet).fold(f64::MIN_POSITIVE, f64::max);
            let per_ns = f64::from(WIDTH - 300) / longest;
            let top = 48 + ROW_HEIGHT as i32 * row as i32;
            let middle = top + ROW_HEIGHT as i32 / 2;
            area.draw(&Text::new(case.name(), (140, middle), label.clone())).map_err(failed)?;
            let mut from = 150.0;
            for (stage, colour) in case.stages.iter().zip(COLOURS) {
                let to = from + stage.ns_per_packet * per_ns;
                let corners = [(from as i32, top + 6), (to as i32, top + ROW_HEIGHT as i32 - 6)];
                area.draw(&Rectangle::new(corners, colour.filled())).map_err(failed)?;
                from = to;
            }
            let sum = format!("{:.0} ns", case.ns_per_packet);
            area.draw(&Text::new(sum, (from as i32 + 8, middle), figure.clone())).map_err(failed)?;
        }
        let stages = figures.first().map_or(&[][..], |case| &case.stages);
        for (at, (stage, colour)) in stages.iter().zip(COLOURS).enumerate() {
            let (x, y) = (150 + (at as i32 % 3) * 240, height as i32 - 84 + (at as i32 / 3) * 24);
            area.draw(&Rectangle::new([(x, y), (x + 14, y + 14)], colour.filled())).map_err(failed)?;
            area.draw(&Text::new(stage.stage, (x + 20, y + 7), figure.clone())).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw the stages: {error}")
}

#[cfg(test)]
mod tests {
    use super::super::StageFigures;
    use super::*;

    #[test]
    fn every_case_and_stage_has_its_name_and_its_length() {
        let case = |flows, of: f64| CaseFigures {
            flows,
            new_percent: 0,
            stages: vec![
                StageFigures { stage: "one <raw>", ns_per_packet: of },
                StageFigures { stage: "other", ns_per_packet: 3.0 * of },
            ],
            ns_per_packet: 4.0 * of,
        };
        let svg = draw(&[case(10, 10.0), case(20, 5.0)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in ["10 flows", "20 flows", "40 ns", "20 ns", "one &lt;raw&gt;", "other"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        for width in ["150", "450", "75", "225"] {
            assert!(svg.contains(&format!("width=\"{width}\"")), "a bar of {width} in {svg}");
        }
    }
}
