// Package logql parses and evaluates LogQL, the query language of Loki, over a store.LogStore. It follows the public language reference (Loki 3.x); the code is our own.
//
// The labels of a record are its stream labels, its attributes (Loki's structured metadata), trace_id and span_id, and level, which is the severity's name unless a label says it. Selectors, line
// filters and the label filters before any parser become a store.LogExpr, so that the store's index answers them; counts and rates of what needs no look at lines are
// counted by the store, too (LogStore.Series). All else runs line by line over what is left, with bounded memory.
package logql
