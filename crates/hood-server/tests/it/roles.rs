//! Roles that run apart. Processes are real, and so are their certificates and sandboxes.

mod dispatcher;
mod process;
mod tls;
