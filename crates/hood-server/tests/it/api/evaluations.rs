mod cancel;
mod create;
mod delete;
pub(crate) mod events;
pub(crate) mod follow;
mod fuzz;
mod get;
mod list;
mod output;
