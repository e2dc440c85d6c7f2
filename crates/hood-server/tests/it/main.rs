//! The binary and its API from outside. Each module says whether it is black, grey or white box.

mod api;
mod blobs;
mod builds;
mod bus;
mod cli_env;
mod cli_help;
mod cli_keys;
mod cli_moving;
mod cli_run;
mod cli_settings;
mod cli_stop;
mod config;
mod images;
mod kill_loop;
mod roles;
mod support;
mod takeover;
mod traces;
mod verdicts;
mod webhooks;
