package codec

import "kemi/pipeline/bus"

// Decode gives the batch of a record of topic metrics: r.Local if it is set, else it decodes the value.
func (t *Table) Decode(r *bus.Record) (*SeriesBatch, error) { panic("stub") }
