// Package merge makes the live store and the batch layer one store: store.SeriesStore, with what PromQL reads. Whoever asks it sees each sample once,
// wherever it lies: in memory, in a block of the live store, in a settled block, or for a moment in two of them.
//
// A reader opens the live store first and then takes a view of the batch layer: what is settled in between is in both and comes once. Questions
// for intervals are answered from rollups where nothing that is not settled comes in between.
package merge
