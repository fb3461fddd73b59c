//! Small plots as inline SVG: lines with a band, histograms, reliability diagrams.
//!
//! Colours come from CSS classes of the page (`s0` .. `s7`), so the plots follow its light and dark modes.
