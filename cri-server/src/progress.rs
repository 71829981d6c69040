//! Progress bars for pulls: redrawn on a terminal, plain lines elsewhere.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};

use crisp_image_service::pull::LayerState;

use crate::table::{short, size};

/// Progress of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The image's name as the user wrote it.
    pub image: String,
    /// The present step in one word.
    pub stage: String,
    /// Lowest layer first; empty until the manifest is known.
    pub layers: Vec<LayerView>,
}

/// Progress of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerView {
    pub digest: String,
    pub total: u64,
    pub received: u64,
    pub state: LayerState,
}

fn word(state: LayerState) -> &'static str {
    match state {
        LayerState::Waiting => "waiting",
        LayerState::Receiving => "receiving",
        LayerState::Unpacking => "unpacking",
        LayerState::Done => "done",
        LayerState::Present => "already here",
    }
}

fn is_over(state: LayerState) -> bool {
    matches!(state, LayerState::Done | LayerState::Present)
}

const BAR: usize = 30;
const MOST_LINES: usize = 12;

/// Draws on standard error, so that standard output has only the command's result.
pub struct Bars {
    terminal: bool,
    /// Lines on the screen that will be redrawn.
    drawn: usize,
    views: Vec<View>,
    /// Plain lines that were printed.
    said: BTreeSet<String>,
}

impl Bars {
    /// Nothing is drawn yet.
    pub fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), drawn: 0, views: Vec::new(), said: BTreeSet::new() }
    }

    /// Shows the progress of an image.
    pub fn update(&mut self, view: View) {
        if !self.terminal {
            self.say_what_is_new(&view);
            return;
        }
        match self.views.iter_mut().find(|v| v.image == view.image) {
            Some(old) if *old == view => return,
            Some(old) => *old = view,
            None => self.views.push(view),
        }
        self.draw("");
    }

    /// Replaces an image's bars with one line.
    pub fn finish(&mut self, image: &str, line: &str) {
        self.views.retain(|v| v.image != image);
        self.draw(&format!("{line}\n"));
    }

    /// Removes an image's bars.
    pub fn clear(&mut self, image: &str) {
        self.views.retain(|v| v.image != image);
        self.draw("");
    }

    fn draw(&mut self, before: &str) {
        let mut text = String::new();
        if self.drawn > 0 {
            // Moves to the first bar and clears the screen below.
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        text.push_str(before);
        let lines: Vec<String> = self.views.iter().flat_map(lines).collect();
        lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        self.drawn = if self.terminal { lines.len() } else { 0 };
        // An error of the screen must not fail a pull.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn say_what_is_new(&mut self, view: &View) {
        for layer in view.layers.iter().filter(|l| is_over(l.state)) {
            let line = format!(
                "{}: layer {} {} {}",
                view.image,
                short(&layer.digest),
                size(layer.total),
                word(layer.state)
            );
            if self.said.insert(line.clone()) {
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    }
}

fn lines(view: &View) -> Vec<String> {
    let over = view.layers.iter().filter(|l| is_over(l.state)).count();
    let count = if view.layers.is_empty() {
        String::new()
    } else {
        format!(" ({over} of {} layers)", view.layers.len())
    };
    // More lines than the screen has cannot be redrawn: of many layers, only active ones are shown.
    let many = view.layers.len() > MOST_LINES;
    let shown = view.layers.iter().filter(|l| !many || !is_over(l.state)).take(MOST_LINES);
    std::iter::once(format!("{}: {}{count}", view.image, view.stage)).chain(shown.map(line)).collect()
}

fn line(layer: &LayerView) -> String {
    let sizes = match layer.state {
        LayerState::Receiving => format!("{} of {}", size(layer.received), size(layer.total)),
        _ => size(layer.total),
    };
    format!("  {}  {}  {:12} {sizes}", short(&layer.digest), bar(layer), word(layer.state))
}

fn bar(layer: &LayerView) -> String {
    let part = match layer.state {
        LayerState::Done | LayerState::Present | LayerState::Unpacking => 1.0,
        _ if layer.total == 0 => 0.0,
        _ => (layer.received as f64 / layer.total as f64).min(1.0),
    };
    let full = (part * BAR as f64) as usize;
    format!("[{}{}]", "=".repeat(full), " ".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_layers_only_those_at_work_are_shown() {
        let layer = |state| LayerView { digest: "sha256:1".into(), total: 1, received: 0, state };
        let mut view =
            View { image: "a".into(), stage: "layers".into(), layers: vec![layer(LayerState::Done); 3] };
        assert_eq!(lines(&view).len(), 4);
        view.layers = vec![layer(LayerState::Done); 40];
        view.layers.push(layer(LayerState::Receiving));
        assert_eq!(lines(&view).len(), 2);
        assert!(lines(&view)[0].contains("40 of 41"));
        view.layers = vec![layer(LayerState::Waiting); 40];
        assert_eq!(lines(&view).len(), 1 + MOST_LINES);
    }

    #[test]
    fn a_bar_is_as_long_as_what_was_received() {
        let layer = |received, state| LayerView {
            digest: "sha256:0123456789abcdef".into(),
            total: 100,
            received,
            state,
        };
        let count = |layer: &LayerView| bar(layer).matches('=').count();
        assert_eq!(count(&layer(0, LayerState::Receiving)), 0);
        assert_eq!(count(&layer(50, LayerState::Receiving)), BAR / 2);
        assert_eq!(count(&layer(999, LayerState::Receiving)), BAR);
        assert_eq!(count(&layer(0, LayerState::Present)), BAR);
        assert_eq!(count(&LayerView { total: 0, ..layer(0, LayerState::Waiting) }), 0);
    }
}
