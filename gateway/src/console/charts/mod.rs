//! Charts: the figures that matter, sampled by one task, kept in rings of a fixed size, drawn as SVG.
//!
//! - `ring`: the last hour at 10 s and the last day at 5 min of one figure.
//! - [`figures`]: which figures there are, and what two readings of the gateway's counters make of each. Pure.
//! - `minutes`: messages per minute of each device, for the last hour.
//! - [`sampler`]: the task that reads the counters, and where the rings stand.
//! - [`draw`]: a chart as SVG with its words. Pure.
//!
//! What was not measured is a gap, and is drawn as one: before the start, while the machine slept, over a counter that
//! began anew.
//!
//! Memory, whatever happens: a figure takes 360 × 4 + 288 × 8 bytes = 3.7 KB; the gateway has [`figures::Figure::ALL`],
//! 41 KB; a link has three, at most [`sampler::MOST_LINKS`] links have any, 720 KB. A device takes 41 bytes of a table, and
//! 128 more from its first message on; at most [`minutes::MOST`] devices, 2.0 MB.

pub mod draw;
pub mod figures;
pub mod minutes;
mod ring;
pub mod sampler;

pub use draw::Chart;
pub use figures::{Figure, LinkFigure, Unit};
pub use sampler::{Charts, Span, Values};
