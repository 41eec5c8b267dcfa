// Package batch is the batch layer of metrics: it settles what the live store has written to blocks into blocks of pipeline/settled, which are
// smaller, quicker to read and have rollups, and merges those into few large ones.
//
// What is in force says one manifest, which is replaced as a whole: which blocks there are, which blocks of the live store they stand for, which
// deletions they are still to undergo. A reader takes a View, which is one manifest: its blocks live until it is given back. A crash
// between any two steps leaves the manifest before or the one after; what no manifest names is deleted at the next start.
//
// What to do next is a pure function of what there is (Plan); doing it is not (Layer).
package batch
