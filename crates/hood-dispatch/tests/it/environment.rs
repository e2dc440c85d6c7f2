//! Grey box: environments through [`hood_dispatch::environment`], and the directory they live in.

mod building;
mod declarations;
mod host;
mod image;
mod imported;
mod locked;
mod support;
