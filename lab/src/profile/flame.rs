//! A flame graph as SVG: one box per function on a stack, as wide as the samples in it and in what it called.
//!
//! Callers are below. A box shows its whole name and its share under the mouse.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::stacks::Stack;

const WIDTH: f64 = 1400.0;
const ROW: f64 = 17.0;
const HEAD: f64 = 34.0;
const MARGIN: f64 = 10.0;
/// Boxes narrower than so many pixels are left out.
const BOX_MIN: f64 = 0.4;
/// A character of the font is about so wide; with less room than for some of them a box has no text.
const CHARACTER: f64 = 6.6;
const CHARACTERS_MIN: usize = 4;
/// Shades of a colour, so that neighbours can be told apart.
const SHADES: usize = 4;

/// A function at its place in the stacks. Ordered by name, so that the same samples give the same picture.
#[derive(Default)]
struct Node<'a> {
    samples: usize,
    kernel: bool,
    called: BTreeMap<&'a str, Node<'a>>,
}

impl Node<'_> {
    fn depth(&self) -> usize {
        self.called.values().map(|node| 1 + node.depth()).max().unwrap_or(0)
    }
}

/// The picture; threads are the lowest boxes.
pub(crate) fn draw(title: &str, stacks: &[Stack]) -> String {
    let mut root = Node::default();
    for stack in stacks {
        root.samples += 1;
        let mut node = &mut root;
        let callers = stack.frames.iter().rev().map(|frame| (frame.name.as_str(), frame.kernel));
        for (name, kernel) in std::iter::once((stack.thread.as_str(), false)).chain(callers) {
            node = node.called.entry(name).or_default();
            node.samples += 1;
            node.kernel = kernel;
        }
    }
    let rows = root.depth();
    let mut boxes = Boxes { svg: String::new(), all: root.samples, bottom: HEAD + ROW * number(rows) };
    boxes.above(&root, MARGIN, 0);
    let (width, height) = (WIDTH + 2.0 * MARGIN, boxes.bottom + MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"monospace\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"22\" font-size=\"15\">{}: {} samples; the kernel's functions are blue</text>\n{}</svg>\n",
        escaped(title),
        root.samples,
        boxes.svg
    )
}

struct Boxes {
    svg: String,
    all: usize,
    bottom: f64,
}

impl Boxes {
    /// What `node` called, side by side from `left` on.
    fn above(&mut self, node: &Node<'_>, left: f64, depth: usize) {
        let mut x = left;
        for (at, (name, called)) in node.called.iter().enumerate() {
            let width = WIDTH * number(called.samples) / number(self.all);
            if width >= BOX_MIN {
                self.one(name, called, (x, width), depth, at % SHADES);
                self.above(called, x, depth + 1);
            }
            x += width;
        }
    }

    fn one(&mut self, name: &str, node: &Node<'_>, (x, width): (f64, f64), depth: usize, shade: usize) {
        let y = self.bottom - ROW * number(depth + 1);
        let (hue, light) = (if node.kernel { 210 } else { 30 }, 64 + 5 * shade);
        let percent = 100.0 * number(node.samples) / number(self.all);
        let height = ROW - 1.0;
        // Writing into a String cannot fail.
        let _ = write!(
            self.svg,
            "<g><title>{} ({} samples, {percent:.2} %)</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" fill=\"hsl({hue},80%,{light}%)\"/>",
            escaped(name),
            node.samples
        );
        if width >= CHARACTER * number(CHARACTERS_MIN) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "below WIDTH, and not negative"
            )]
            let room = ((width - 2.0) / CHARACTER) as usize;
            let text: String = name.chars().take(room).collect();
            let _ = write!(self.svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 2.0, y + 12.0, escaped(&text));
        }
        self.svg += "</g>\n";
    }
}

#[expect(clippy::cast_precision_loss, reason = "samples and rows are far below 2^53")]
fn number(count: usize) -> f64 {
    count as f64
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::stacks::Profile;
    use super::super::stacks::tests::SCRIPT;
    use super::*;

    #[test]
    fn a_box_is_as_wide_as_its_samples_and_stands_on_its_caller() {
        let svg = draw("a & b", &Profile::parse(SCRIPT).stacks);
        assert!(svg.contains("a &amp; b: 3 samples"), "{svg}");
        let place = |title: &str| {
            let line = svg.lines().find(|line| line.contains(&format!("<title>{title} ("))).unwrap();
            let value = |key: &str| {
                let text = line.split(&format!(" {key}=\"")).nth(1).unwrap().split('"').next().unwrap();
                text.parse::<f64>().unwrap()
            };
            (value("x"), value("y"), value("width"))
        };
        let (thread, write, copy) = (place("log-writer"), place("vfs_write"), place("copy_from_user"));
        assert!((thread.2 - WIDTH * 2.0 / 3.0).abs() < 0.1 && (write.2 - WIDTH / 3.0).abs() < 0.1, "{svg}");
        assert!((write.1 - copy.1 - ROW).abs() < 0.1 && thread.1 > write.1 && (write.0 - copy.0).abs() < 0.1, "{svg}");
        assert!(svg.contains("&lt;dbstreamd_log::appender::Appender as"), "names are escaped: {svg}");
    }

    #[test]
    fn nothing_gives_an_empty_picture() {
        assert!(draw("none", &[]).contains("none: 0 samples"));
    }
}
