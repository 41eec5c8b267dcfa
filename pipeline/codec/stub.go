package codec

import (
	"time"

	"kemi"
	"kemi/pipeline/bus"
)

// STUBS: replaced by the owners of metrics and logs codec; signatures are agreed.

// Complex is the samples that are not plain floats.
type Complex struct{}

// Table finds the Series of raw label bytes.
type Table struct{}

// NewTable makes an empty table; enrich may be nil.
func NewTable(enrich Enricher, now func() time.Time) *Table { panic("stub") }

// Decode gives the batch of a record of topic metrics: r.Local if it is set, else it decodes the value.
func (t *Table) Decode(r *bus.Record) (*SeriesBatch, error) { panic("stub") }

// BatchOf makes a batch of points (with kemi.MetricName among the labels) through the table: for tests and for
// small writers.
func (t *Table) BatchOf(project string, points []kemi.Points) *SeriesBatch { panic("stub") }

// EncodeLogs makes the record of log records of one project: an OTLP ExportLogsServiceRequest. batch may be "".
func EncodeLogs(project, batch string, records []kemi.LogRecord) bus.Record { panic("stub") }

// DecodeLogs reads a record of topic logs. IDs are made from the batch header, or else from partition and offset.
func DecodeLogs(r *bus.Record) ([]kemi.LogRecord, error) { panic("stub") }
