//! What is in the files: names, numbers and marks, and what is refused.

use super::*;

fn line_plot() -> LinePlot {
    let points = |factor: f64| {
        [(1_048_576.0, 80.0), (16_777_216.0, 160.0), (1_073_741_824.0, 290.0)]
            .map(|(x, y)| Point { x, y: y * factor, low: y * factor * 0.9, high: y * factor * 1.1 })
            .into()
    };
    LinePlot {
        title: "Throughput by size".to_owned(),
        subtitle: String::new(),
        x: Axis::bytes("size of the file"),
        y: Axis::linear("throughput, MiB/s"),
        series: vec![
            Series { name: "get <&> \"all\"".to_owned(), points: points(1.0) },
            Series { name: "put".to_owned(), points: points(0.5) },
        ],
    }
}

fn bar_plot() -> BarPlot {
    let bar = |name: &str, parts: &[f64]| Bar { name: name.to_owned(), parts: parts.to_vec(), spread: None };
    BarPlot {
        title: "CPU seconds per GB".to_owned(),
        subtitle: "24 nodes".to_owned(),
        label: "CPU seconds per GB".to_owned(),
        stages: vec!["client".to_owned(), "nodes".to_owned()],
        bars: vec![bar("get", &[1.25, 0.75]), bar("put", &[3.0, 4.5])],
    }
}

fn tail_plot() -> TailPlot {
    let tail = |name: &str, factor: f64| Tail {
        name: name.to_owned(),
        milliseconds: (1_u32..=2000).map(|index| factor * (1.0 + 2.0 / (1.0005 - f64::from(index) / 2000.0))).collect(),
    };
    TailPlot {
        title: "Reads of 64 KiB".to_owned(),
        subtitle: String::new(),
        label: "latency".to_owned(),
        tails: vec![tail("warm", 0.1), tail("cold", 1.0)],
    }
}

fn plots() -> [Plot; 3] {
    [Plot::Lines(line_plot()), Plot::Bars(bar_plot()), Plot::Tails(tail_plot())]
}

#[test]
fn everything_that_is_named_stands_in_the_svg() {
    let expected: [&[&str]; 3] = [
        &[
            "Throughput by size",
            "size of the file",
            "throughput, MiB/s",
            "1 MiB",
            "1 GiB",
            "300",
            "get &lt;&amp;&gt;",
            "put",
        ],
        &["CPU seconds per GB", "24 nodes", "client", "nodes", "get", "put", "1.25", "4.5", "7.5"],
        &["Reads of 64 KiB", "latency, ms", "50 %", "99.9 %", "warm", "cold", "p50 "],
    ];
    for (plot, texts) in plots().iter().zip(expected) {
        let svg = plot.svg().expect("a plot");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in texts {
            assert!(
                svg.contains(&format!("\n{text}")) || svg.contains(&format!(">{text}")),
                "{text} is missing: {svg}"
            );
        }
        assert!(svg.contains("font-family=\"sans-serif\""));
    }
}

#[test]
fn pngs_have_twice_the_size_and_something_on_them() {
    for plot in plots() {
        let png = plot.png().expect("a plot");
        let mut reader = png::Decoder::new(png.as_slice()).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size()];
        reader.next_frame(&mut pixels).expect("an image");
        assert_eq!((reader.info().width, reader.info().height), (WIDTH * PNG_ZOOM, HEIGHT * PNG_ZOOM));
        let ink = pixels.chunks_exact(3).filter(|pixel| **pixel != [255; 3]).count();
        assert!(ink > 10_000, "{ink} pixels");
        // The title is in the upper left corner, whatever fonts the machine has.
        let row_bytes = 3 * (WIDTH * PNG_ZOOM) as usize;
        let corner = pixels.chunks_exact(row_bytes).take(100).flat_map(|row| row[..1500].chunks_exact(3));
        let title = corner.filter(|pixel| pixel[0] < 100).count();
        assert!(title > 500, "{title} dark pixels of a title");
    }
}

#[test]
fn files_are_written_with_both_extensions() {
    let folder = tempfile::tempdir().expect("a folder");
    Plot::Bars(bar_plot()).write(folder.path(), "cpu").expect("written");
    assert!(folder.path().join("cpu.svg").is_file() && folder.path().join("cpu.png").is_file());
    let missing = folder.path().join("missing");
    assert!(matches!(Plot::Bars(bar_plot()).write(&missing, "cpu"), Err(PlotError::Write { .. })));
}

#[test]
fn what_has_no_place_is_refused() {
    let mut plot = line_plot();
    plot.series[1].points[0].x = 0.0;
    assert!(matches!(Plot::Lines(plot).svg(), Err(PlotError::NoPlace { name, .. }) if name == "put"));
    let mut plot = line_plot();
    plot.series[0].points[2].high = f64::NAN;
    assert!(matches!(Plot::Lines(plot).svg(), Err(PlotError::NoPlace { .. })));
    let plot = LinePlot { series: Vec::new(), ..line_plot() };
    assert!(matches!(Plot::Lines(plot).png(), Err(PlotError::Empty { .. })));
    let plot = LinePlot { series: vec![line_plot().series[0].clone(); 9], ..line_plot() };
    assert!(matches!(Plot::Lines(plot).png(), Err(PlotError::TooMany { what: "lines", number: 9, most: 8, .. })));
    let mut plot = bar_plot();
    plot.bars[0].parts.pop();
    assert!(matches!(Plot::Bars(plot).svg(), Err(PlotError::Parts { parts: 1, stages: 2, .. })));
    let mut plot = tail_plot();
    plot.tails[0].milliseconds.clear();
    assert!(matches!(Plot::Tails(plot).svg(), Err(PlotError::Empty { .. })));
}

#[test]
fn a_single_point_and_equal_values_are_plots_too() {
    let mut plot = line_plot();
    plot.series.truncate(1);
    plot.series[0].points.truncate(1);
    Plot::Lines(plot).png().expect("one point");
    let tails = vec![Tail { name: "same".to_owned(), milliseconds: vec![1.0; 3] }];
    Plot::Tails(TailPlot { tails, ..tail_plot() }).png().expect("equal latencies");
}
