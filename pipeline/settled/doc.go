// Package settled is the format of metric data that does not change any more: blocks, made by the batch run out of what the live store holds.
//
// The one idea: samples are what people and programs write, decimals and integers, not random bits. Each stretch of a series becomes a column of small
// integers (value = mantissa / 10^digits, exactly, or else the float's bits), their low bits are packed, their high bytes are gathered from
// many series in one page and packed by zstd. Beside them lie rollups in the same coding, a column for each of count, sum, min, max, first,
// last and counter resets, so that a question over years reads one column and nothing else. What goes in comes out bit for bit.
//
// A block is a folder that never changes: Create, Add, Close write one, Open reads it, Merge makes one of several. docs/formats/settled.md describes
// every byte. Which blocks there are, what replaces what, and what the live store answers beside them is the affair of who makes them.
package settled
