//! Roles that run apart. Processes are real, and so are their certificates, sandboxes and PostgreSQL.

mod apart;
mod dispatcher;
mod manual;
mod notifier;
mod process;
mod receiver;
mod site;
mod tls;
