//! `atalho replay` from outside: captures in, captures and reports out, as anybody runs it. What is written is read by
//! another implementation of the format.

mod answers;
mod capture;
mod connections;
mod errors;
mod files;
mod fragments;
mod held;
mod junk;
mod lab;
mod long;
mod objects;
mod packets;
mod same;
mod sctp;
mod why;
