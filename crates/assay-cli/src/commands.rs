//! One module per command.

pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod edit;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod fetch;
pub(crate) mod judge;
pub(crate) mod localise;
pub(crate) mod manual;
pub(crate) mod quickstart;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod sample;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod select;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod sweep;
pub(crate) mod train;
