//! Roles that run apart. Processes are real, and so are their certificates, sandboxes and PostgreSQL.

mod apart;
mod dispatcher;
mod manual;
mod metrics;
mod notifier;
pub(crate) mod process;
mod receiver;
mod several;
pub(crate) mod site;
mod tls;
