package codec

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
	"kemi/pipeline/bus"
)

const (
	// HeaderFirst is the place in the batch of the first log record of a bus record, when a batch takes several; 0 if it is missing.
	HeaderFirst = "first"

	// LogsType is the content type of records on topic logs.
	LogsType = "application/x-protobuf"

	// logsChunk is about how large EncodeLogBatch lets a bus record become.
	logsChunk = 1 << 20
)

// The field numbers of OTLP logs (opentelemetry/proto/logs/v1, common/v1, resource/v1).
const (
	requestResourceLogs = 1
	resourceLogsRes     = 1
	resourceLogsScope   = 2
	resourceAttributes  = 1
	scopeLogsScope      = 1
	scopeLogsRecords    = 2
	scopeName           = 1
	scopeVersion        = 2
	scopeAttributes     = 3
	recordTime          = 1
	recordSeverity      = 2
	recordSeverityText  = 3
	recordBody          = 5
	recordAttributes    = 6
	recordTraceID       = 9
	recordSpanID        = 10
	recordObserved      = 11
	recordEventName     = 12
	keyValueKey         = 1
	keyValueValue       = 2
	anyString           = 1
	anyBool             = 2
	anyInt              = 3
	anyDouble           = 4
	anyArray            = 5
	anyMap              = 6
	anyBytes            = 7
)

// LogBatch is log records in decoded form, as they travel beside the encoded ones to readers in the same process.
type LogBatch struct {
	records []kemi.LogRecord
	bytes   int64
	named   sync.Once // ID and Project are set, by the reader that comes first
	ours    bool      // nobody else looks at records
}

// MemoryBytes is about how much memory the batch holds.
func (b *LogBatch) MemoryBytes() int64 { return b.bytes }

// EncodeLogs makes the record of log records of one project: an OTLP ExportLogsServiceRequest in which consecutive records with equal stream
// labels share a ResourceLogs, packed if it is not small. batch may be "". The ID and the Project of the records are not looked at: what DecodeLogs
// gives has the project of the header and an ID made from the batch, or else from where the bus put the record. The records and
// their labels may not be changed afterwards, as readers in this process get them as they are.
//
// Any body and any value of a label comes back as it was; what is not UTF-8 travels as bytes. Names of labels should be UTF-8, and trace and
// span IDs hexadecimal: other bytes of a name are replaced, other IDs left out.
func EncodeLogs(project, batch string, records []kemi.LogRecord) bus.Record {
	return encodeLogs(project, batch, 0, records, sizesOf(records), false)
}

// EncodeLogBatch is EncodeLogs for batches of any size: it makes as many records as are needed to keep each at about 1 MiB. IDs are
// the same as in one record. It takes the records over: the caller may not even look at them afterwards, as readers in this process get
// them themselves, with IDs.
func EncodeLogBatch(project, batch string, records []kemi.LogRecord) []bus.Record {
	sizes := sizesOf(records)
	var out []bus.Record
	for from := 0; from < len(records); {
		to, n := from, 0
		for to < len(records) && (to == from || n+sizes[to] <= logsChunk) {
			n += sizes[to]
			to++
		}
		out = append(out, encodeLogs(project, batch, from, records[from:to:to], sizes[from:to], true))
		from = to
	}
	return out
}

func sizesOf(records []kemi.LogRecord) []int {
	sizes := make([]int, len(records))
	for i := range records {
		sizes[i] = recordSize(&records[i])
	}
	return sizes
}

// streamGroup is consecutive records of one stream.
type streamGroup struct{ from, to, resource, records int }

func (g *streamGroup) size() int {
	return field(g.resource) + field(g.records)
}

// EncodeOTLPLogs is what EncodeLogs makes of records, not packed and without anything around it.
func EncodeOTLPLogs(records []kemi.LogRecord) []byte {
	sizes := sizesOf(records)
	groups, total := groupsOf(records, sizes)
	return appendGroups(make([]byte, 0, total), groups, records, sizes)
}

// groupsOf are the streams of records, and how many bytes their encoded form takes.
func groupsOf(records []kemi.LogRecord, sizes []int) (groups []streamGroup, total int) {
	for i := 0; i < len(records); {
		g := streamGroup{from: i, resource: attrsSize(records[i].Stream)}
		for ; i < len(records) && sameLabels(records[i].Stream, records[g.from].Stream); i++ {
			g.records += field(sizes[i])
		}
		g.to = i
		total += field(g.size())
		groups = append(groups, g)
	}
	return groups, total
}

func appendGroups(b []byte, groups []streamGroup, records []kemi.LogRecord, sizes []int) []byte {
	for i := range groups {
		g := &groups[i]
		b = header(b, requestResourceLogs, g.size())
		b = header(b, resourceLogsRes, g.resource)
		b = appendAttrs(b, resourceAttributes, records[g.from].Stream)
		b = header(b, resourceLogsScope, g.records)
		for k := g.from; k < g.to; k++ {
			b = header(b, scopeLogsRecords, sizes[k])
			b = appendRecord(b, &records[k])
		}
	}
	return b
}

func encodeLogs(project, batch string, first int, records []kemi.LogRecord, sizes []int, ours bool) bus.Record {
	groups, total := groupsOf(records, sizes)
	p := packers.Get().(*packer)
	value, packed := p.pack(appendGroups(p.room(total)[:0], groups, records, sizes))
	p.release()

	r := bus.Record{Key: logsKey(project, records), Value: value}
	r.Headers = append(make([]bus.Header, 0, 5), bus.Header{Name: HeaderProject, Value: project}, bus.Header{Name: HeaderType, Value: LogsType})
	if packed {
		r.Headers = append(r.Headers, bus.Header{Name: HeaderEncoding, Value: EncodingSnappy})
	}
	if batch != "" {
		r.Headers = append(r.Headers, bus.Header{Name: HeaderBatch, Value: batch})
	}
	if first != 0 {
		r.Headers = append(r.Headers, bus.Header{Name: HeaderFirst, Value: strconv.Itoa(first)})
	}
	if asDecoded(groups, records) {
		r.Local = &LogBatch{records: records, bytes: memoryOf(groups, records) + int64(len(project)), ours: ours}
	}
	return r
}

// memoryOf is about how much memory records hold.
func memoryOf(groups []streamGroup, records []kemi.LogRecord) (n int64) {
	for i := range groups {
		n += int64(64 * len(records[groups[i].from].Stream))
	}
	for i := range records {
		n += int64(160 + len(records[i].Body) + 48*len(records[i].Attrs))
	}
	return n
}

// logsKey keeps the records of a host in order; without a host, those of a stream.
func logsKey(project string, records []kemi.LogRecord) []byte {
	key := append([]byte(project), 0)
	if len(records) == 0 {
		return key
	}
	if host := records[0].Stream.Get(HostLabel); host != "" {
		return append(key, host...)
	}
	for _, l := range records[0].Stream {
		key = append(append(append(append(key, l.Name...), 0), l.Value...), 0)
	}
	return key
}

func sameLabels(a, b kemi.Labels) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// asDecoded tells whether the records are what DecodeLogs would make of their encoded form, but for ID and Project.
func asDecoded(groups []streamGroup, records []kemi.LogRecord) bool {
	for i := range groups {
		if !plain(records[groups[i].from].Stream) {
			return false
		}
	}
	for i := range records {
		r := &records[i]
		if r.Severity > maxSeverity || r.TraceID != "" && idSize(r.TraceID, 16) == 0 || r.SpanID != "" && idSize(r.SpanID, 8) == 0 || !plain(r.Attrs) {
			return false
		}
	}
	return true
}

const maxSeverity = 24

// plain tells whether ls are labels as they should be, with names of UTF-8.
func plain(ls kemi.Labels) bool {
	for i, l := range ls {
		if l.Value == "" || i > 0 && ls[i-1].Name >= l.Name || !utf8.ValidString(l.Name) {
			return false
		}
	}
	return true
}

// field is the size of a field with n bytes in it. All numbers here are below 16, so that a tag is one byte.
func field(n int) int { return 1 + protowire.SizeBytes(n) }

func header(b []byte, number, n int) []byte {
	b = append(b, byte(number<<3)|byte(protowire.BytesType))
	return protowire.AppendVarint(b, uint64(n))
}

func recordSize(r *kemi.LogRecord) int {
	n := 9 + field(field(len(r.Body)))
	if r.Severity != 0 {
		n += 2
	}
	n += attrsSize(r.Attrs)
	if s := idSize(r.TraceID, 16); s > 0 {
		n += field(s)
	}
	if s := idSize(r.SpanID, 8); s > 0 {
		n += field(s)
	}
	return n
}

func appendRecord(b []byte, r *kemi.LogRecord) []byte {
	b = append(b, recordTime<<3|byte(protowire.Fixed64Type))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.At))
	if r.Severity != 0 {
		b = append(b, recordSeverity<<3|byte(protowire.VarintType), byte(min(r.Severity, 127)))
	}
	b = header(b, recordBody, field(len(r.Body)))
	b = appendText(b, r.Body)
	b = appendAttrs(b, recordAttributes, r.Attrs)
	b = appendID(b, recordTraceID, r.TraceID, 16)
	return appendID(b, recordSpanID, r.SpanID, 8)
}

// appendText writes an AnyValue: a string, or bytes if it is not UTF-8.
func appendText(b []byte, s string) []byte {
	kind := anyString
	if !utf8.ValidString(s) {
		kind = anyBytes
	}
	return append(header(b, kind, len(s)), s...)
}

func keyValueSize(l kemi.Label) int {
	n := len(l.Name)
	if !utf8.ValidString(l.Name) {
		n = len(strings.ToValidUTF8(l.Name, "\ufffd"))
	}
	return field(n) + field(field(len(l.Value)))
}

func attrsSize(ls kemi.Labels) int {
	n := 0
	for _, l := range ls {
		n += field(keyValueSize(l))
	}
	return n
}

func appendAttrs(b []byte, number int, ls kemi.Labels) []byte {
	for _, l := range ls {
		b = header(b, number, keyValueSize(l))
		if !utf8.ValidString(l.Name) {
			l.Name = strings.ToValidUTF8(l.Name, "\ufffd")
		}
		b = append(header(b, keyValueKey, len(l.Name)), l.Name...)
		b = header(b, keyValueValue, field(len(l.Value)))
		b = appendText(b, l.Value)
	}
	return b
}

// idSize is how many bytes a hexadecimal ID takes: n, or 0 if it is none of n bytes, or all zero.
func idSize(id string, n int) int {
	if len(id) != 2*n || strings.Trim(id, "0") == "" {
		return 0
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return 0
		}
	}
	return n
}

func appendID(b []byte, number int, id string, n int) []byte {
	if idSize(id, n) == 0 {
		return b
	}
	b = header(b, number, n)
	b, _ = hex.AppendDecode(b, []byte(id)) // idSize has looked at each digit
	return b
}
