// Package sqlite keeps the control state (rules, hosts, groups, tokens, decisions, messages to send) in one SQLite file. It is the
// embedded store.Control.
//
// The file is in WAL mode with synchronous=FULL: a change is on disk when the call that made it returns. One connection writes, so writers
// wait for each other here and not in SQLite's busy loop; a few others read, each a consistent snapshot, and never wait for the writer.
//
// The file's format is docs/formats/control.md.
package sqlite
