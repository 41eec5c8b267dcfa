package codec

import "kemi"

// The headers of records on the bus.
const (
	HeaderProject  = "project"          // who owns the records
	HeaderType     = "content-type"     // of the value, as the receiver took it
	HeaderEncoding = "content-encoding" // of the value
	HeaderBatch    = "batch"            // the sender's own name of the request: sent again, it is the same batch
	HeaderEnrich   = "enrich"           // what IMS added: JSON {host: {label: value}}
)

// Enricher knows which labels the inventory (IMS) adds to the records of a host: its service, owner, zone. What a record
// says itself is not overwritten.
type Enricher interface {
	// Enrich is nil for a host that it does not know. It is called on hot paths: it must not block.
	Enrich(project, host string) kemi.Labels
	// Epoch changes whenever an answer of Enrich may have changed.
	Epoch() uint64
}

type enrichment struct {
	host   string
	labels kemi.Labels
	epoch  uint64
}

// HostLabel is the label that names the host of a record.
const HostLabel = "host"
