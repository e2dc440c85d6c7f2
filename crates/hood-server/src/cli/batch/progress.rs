//! How far a batch is: a bar on a terminal, nothing off one.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{wide_bar} {pos}/{len} done  {per_sec}  {eta} left{msg}";

#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn start(all: usize, quiet: bool) -> Self {
        let shown = !quiet && io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(all as u64), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    /// Results that are written, out of order ones included.
    pub(super) fn done(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    pub(super) fn failed(&self, failed: usize) {
        if failed > 0 {
            self.bar.set_message(format!("  {failed} not succeeded"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
