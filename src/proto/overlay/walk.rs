//! Visits every peer of an overlay.
