// Package search is the embedded log store: store.LogStore on bleve.
//
// The one idea: a bleve document is not a line but a block of lines (about 128 KiB of one project, lines of one stream together), packed
// in columns and kept whole in one stored field. The index tells which blocks can hold a match: words and Hangul pairs by bleve's term
// dictionaries, tokens with digits in them (ids, numbers, addresses: many and rare) by a bloom filter in the block. The blocks that are
// left are opened and each record is decided by LogExpr.Match, so the answer is exact whatever the index approximates. Indexing every line
// as a document costs ten times the CPU and an index as large as the text.
//
// New records are held in memory first (the head), where a query scans them, and become blocks a few seconds or megabytes
// later, in one bleve batch together with the position in the log of record. So a crash loses nothing that replay from Positions does
// not bring again, and brings nothing twice.
//
// Blocks lie in slices, one bleve index each, by the day on which they came in and up to a size; retention drops whole slices. A slice
// that cannot be opened is set aside and the others serve.
package search
