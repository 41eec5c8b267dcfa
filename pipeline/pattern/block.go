package pattern

import (
	"encoding/json"
	"slices"

	"github.com/klauspost/compress/zstd"

	"kemi"
	"kemi/pipeline/store"
)

// Meta is what is known of a block without opening it.
type Meta struct {
	Project  string
	Records  int
	Raw      int64      // bytes of the bodies
	From, To kemi.Nanos // of the oldest record and of the newest
}

// Encode codes records of one project, in the order in which they came: at least one, at most MaxRecords. Those of one stream should share their Stream.
// Any bytes come back as they were.
func Encode(records []kemi.LogRecord) ([]byte, Meta, error) {
	m := Meta{Project: records[0].Project, Records: len(records), From: records[0].At, To: records[0].At}
	for i := range records {
		m.Raw += int64(len(records[i].Body))
		m.From, m.To = min(m.From, records[i].At), max(m.To, records[i].At)
	}
	type raw struct {
		R    kemi.LogRecord
		Body []byte
	}
	var out []raw
	for _, r := range records {
		out = append(out, raw{r, []byte(r.Body)})
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, m, err
	}
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(b, nil), m, nil
}

// MaxRecords is how many records a block can hold.
const MaxRecords = 1 << 17

// Templates interns the templates of all blocks of a process, so that a query judges each once.
type Templates struct{}

// NewTemplates makes an empty one.
func NewTemplates() *Templates { return &Templates{} }

// Block is an open block. It may be used concurrently.
type Block struct {
	Meta
	records []kemi.LogRecord
}

// Open opens what Encode made; data must stay as it is, and readable, as long as the block is used (it may be a mapped file). What is not a block, or is
// damaged, is an error wrapping kemi.ErrInvalid, here or when its parts are read.
func Open(data []byte, m Meta, t *Templates) (*Block, error) {
	d, _ := zstd.NewReader(nil)
	b, err := d.DecodeAll(data, nil)
	if err != nil {
		return nil, err
	}
	var in []struct {
		R    kemi.LogRecord
		Body []byte
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	out := &Block{Meta: m}
	for _, r := range in {
		r.R.Body = string(r.Body)
		out.records = append(out.records, r.R)
	}
	return out, nil
}

// MemoryBytes is about how much memory the open block holds, beside data.
func (b *Block) MemoryBytes() int64 { return b.Raw }

// Query is a condition and a range, made ready to be asked of many blocks. It may be used concurrently.
type Query struct {
	match func(*kemi.LogRecord) bool
	r     store.NanoRange
}

// NewQuery prepares a query; a nil expr matches all. The block's project is not looked at.
func NewQuery(expr store.LogExpr, r store.NanoRange) *Query {
	return &Query{match: store.CompileLog(expr), r: r}
}

// Selection is the records of a block that a query selects. Rows are the numbers of records in the block, in an order of the block's own.
type Selection struct {
	b    *Block
	rows []int
}

// Select finds the records of b that q selects: exactly those for which the condition's Match is true and whose time lies in the range.
func (q *Query) Select(b *Block) (*Selection, error) {
	s := &Selection{b: b}
	for i := range b.records {
		if r := &b.records[i]; r.At >= q.r.From && r.At < q.r.To && q.match(r) {
			s.rows = append(s.rows, i)
		}
	}
	return s, nil
}

// Len is how many records are selected.
func (s *Selection) Len() int { return len(s.rows) }

// Times calls f with each selected row and its time until f returns false.
func (s *Selection) Times(f func(row int, at kemi.Nanos) bool) error {
	for _, i := range s.rows {
		if !f(i, s.b.records[i].At) {
			return nil
		}
	}
	return nil
}

// Records puts rows together again and calls f with each until f returns false; rows must ascend. Strings of the record stay valid.
func (b *Block) Records(rows []int, f func(row int, r *kemi.LogRecord) bool) error {
	for _, i := range rows {
		r := b.records[i]
		if !f(i, &r) {
			return nil
		}
	}
	return nil
}

// Histogram adds the selected records to counts by the start of their step (a multiple of step since the epoch) and their severity.
func (s *Selection) Histogram(step kemi.Millis, add func(at kemi.Millis, sev kemi.Severity, n int64)) error {
	for _, i := range s.rows {
		r := &s.b.records[i]
		at := r.At.Millis()
		add(at-((at%step)+step)%step, r.Severity, 1)
	}
	return nil
}

// CountBy counts the selected records by the values of fields (see store.FieldOf), "" where a record has none. Values are valid until add returns. A
// combination may come several times.
func (s *Selection) CountBy(fields []string, add func(values []string, n int64)) error {
	values := make([]string, len(fields))
	for _, i := range s.rows {
		for k, f := range fields {
			values[k], _ = store.FieldOf(&s.b.records[i], f)
		}
		add(values, 1)
	}
	return nil
}

// Fields tells the names of the fields (level, stream labels, attributes) that selected records have.
func (s *Selection) Fields() ([]string, error) {
	seen := map[string]bool{}
	for _, i := range s.rows {
		r := &s.b.records[i]
		if r.Severity.String() != "" {
			seen["level"] = true
		}
		for _, l := range r.Stream {
			seen[l.Name] = true
		}
		for _, l := range r.Attrs {
			seen[l.Name] = true
		}
	}
	out := make([]string, 0, len(seen))
	for n := range seen {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// Batches are the names of the senders' batches (the part of an ID before "~") that records of the block are of.
func (b *Block) Batches() ([]string, error) {
	var out []string
	for i := range b.records {
		for k := range len(b.records[i].ID) {
			if b.records[i].ID[k] == '~' && !slices.Contains(out, b.records[i].ID[:k]) {
				out = append(out, b.records[i].ID[:k])
			}
		}
	}
	return out, nil
}
