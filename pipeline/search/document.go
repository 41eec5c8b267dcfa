package search

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	index "github.com/blevesearch/bleve_index_api"
	"github.com/zeebo/xxh3"

	"kemi"
	"kemi/pipeline/store"
)

// The fields of a bleve document.
const (
	idField      = "_id"
	projectField = "p" // the project
	wordField    = "w" // words of the bodies
	labelField   = "l" // name, 0, word of the value; and name, 0 for the field itself
	groupField   = "g" // groups of record IDs
	metaField    = "m" // doc value: blockMeta
	dataField    = "d" // stored: the block
)

// A word that has a digit in it or is long is not put into the dictionary, of which such words would be most, but into the bloom filter
// of its block. The letters that it begins with are put into the dictionary, so that prefixes are found.
const (
	maxWord = 32
	maxStub = 8
)

// inDictionary tells whether the dictionary holds the term as it is; stub is the letters that it begins with.
func inDictionary(term []byte) (ok bool, stub []byte) {
	for i, c := range term {
		if c >= '0' && c <= '9' {
			return false, term[:min(i, maxStub)]
		}
	}
	if len(term) > maxWord {
		return false, term[:maxStub]
	}
	return true, nil
}

// filterHash is the term of a field ("" is the body) in a bloom filter.
func filterHash(field string, term []byte) uint64 {
	if field == "" {
		return xxh3.Hash(term)
	}
	return xxh3.HashSeed(term, xxh3.HashString(field))
}

// blockMeta is what is known of a block without opening it.
type blockMeta struct {
	from, to kemi.Nanos // of the first and the last record
	count    int64
	bySev    [7]int64 // by name of severity, see severityNames
}

var severityNames = [...]string{"", "trace", "debug", "info", "warn", "error", "fatal"}

func severityIndex(s byte) int {
	if s == 0 || s > 24 {
		return 0
	}
	return int(s-1)/4 + 1
}

// String has no byte 0xff, with which bleve separates doc values.
func (m *blockMeta) String() string {
	b := strconv.AppendInt(nil, int64(m.from), 36)
	for _, v := range append([]int64{int64(m.to), m.count}, m.bySev[:]...) {
		b = strconv.AppendInt(append(b, ' '), v, 36)
	}
	return string(b)
}

func parseMeta(s string) (m blockMeta, err error) {
	parts := strings.Fields(s)
	if len(parts) != 3+len(m.bySev) {
		return m, errBlock
	}
	var v [3 + len(m.bySev)]int64
	for i, p := range parts {
		n, e := strconv.ParseInt(p, 36, 64)
		err = errors.Join(err, e)
		v[i] = n
	}
	m.from, m.to, m.count = kemi.Nanos(v[0]), kemi.Nanos(v[1]), v[2]
	copy(m.bySev[:], v[3:])
	return m, err
}

// document is one block as bleve sees it.
type document struct {
	id     string
	fields []*field
	data   []byte
	meta   blockMeta
}

// once is the frequency of every term: that it is there is all that counts.
var once = func() *index.TokenFreq {
	tf := &index.TokenFreq{}
	tf.SetFrequency(1)
	return tf
}()

type termSet = index.TokenFrequencies

// newDocument makes the document of a block of records, which are of one project.
func newDocument(id string, records []kemi.LogRecord) *document {
	words, labels, groups := termSet{}, termSet{}, termSet{}
	filter := map[uint64]struct{}{}
	meta := blockMeta{from: records[0].At, to: records[0].At, count: int64(len(records))}
	add := func(set termSet, term []byte) {
		if _, ok := set[string(term)]; !ok {
			set[string(term)] = once
		}
	}
	word := func(term []byte) {
		ok, stub := inDictionary(term)
		if ok {
			add(words, term)
			return
		}
		filter[filterHash("", term)] = struct{}{}
		if len(stub) > 0 {
			add(words, stub)
		}
	}
	var key []byte
	value := func(name, v string) {
		key = append(append(key[:0], name...), 0)
		add(labels, key)
		n := len(key)
		store.Terms(v, func(term []byte) {
			ok, stub := inDictionary(term)
			if !ok {
				filter[filterHash(name, term)] = struct{}{}
				if term = stub; len(stub) == 0 {
					return
				}
			}
			key = append(key[:n], term...)
			add(labels, key)
		})
	}
	seen := map[uint64]struct{}{} // streams; and pairs of few values
	var lastGroup uint64
	for i := range records {
		r := &records[i]
		meta.from, meta.to = min(meta.from, r.At), max(meta.to, r.At)
		meta.bySev[severityIndex(byte(r.Severity))]++
		store.Terms(r.Body, word)
		if i == 0 || r.Stream.Compare(records[i-1].Stream) != 0 {
			for _, l := range r.Stream {
				value(l.Name, l.Value)
			}
		}
		for _, l := range r.Attrs {
			h := xxh3.HashStringSeed(l.Value, xxh3.HashString(l.Name))
			if _, ok := seen[h]; ok {
				continue
			}
			if seen[h] = struct{}{}; len(seen) > 4096 {
				clear(seen)
			}
			value(l.Name, l.Value)
		}
		if r.TraceID != "" {
			value("trace_id", r.TraceID)
		}
		if r.SpanID != "" {
			value("span_id", r.SpanID)
		}
		if g := groupHash(r.Project, r.ID); i == 0 || g != lastGroup {
			lastGroup = g
			add(groups, groupTerm(g))
		}
	}
	for i, n := range meta.bySev {
		if n > 0 && severityNames[i] != "" {
			value("level", severityNames[i])
		}
	}
	data := encodeBlock(records, newBloom(filter))
	return &document{id: id, data: data, meta: meta, fields: []*field{
		{name: projectField, options: index.IndexField | index.SkipFreqNorm, terms: termSet{records[0].Project: once}},
		{name: wordField, options: index.IndexField | index.SkipFreqNorm, terms: words},
		{name: labelField, options: index.IndexField | index.SkipFreqNorm, terms: labels},
		{name: groupField, options: index.IndexField | index.SkipFreqNorm, terms: groups},
		{name: metaField, options: index.IndexField | index.SkipFreqNorm | index.DocValues, terms: termSet{meta.String(): once}},
		{name: dataField, options: index.StoreField, value: data},
	}}
}

// groupHash is the group of a record's ID, see groupOf, within its project.
func groupHash(project, id string) uint64 {
	prefix, number := groupOf(id)
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], number)
	return xxh3.HashSeed(b[:], xxh3.HashStringSeed(prefix, xxh3.HashString(project)))
}

func recordHash(project, id string) uint64 {
	return xxh3.HashStringSeed(id, xxh3.HashString(project))
}

func docID(seq uint64, n int) string { return fmt.Sprintf("%012x-%04x", seq, n) }

// What bleve asks of a document.

func (d *document) ID() string                                 { return d.id }
func (d *document) Size() int                                  { return len(d.data) }
func (d *document) VisitComposite(index.CompositeFieldVisitor) {}
func (d *document) HasComposite() bool                         { return false }
func (d *document) NumPlainTextBytes() uint64                  { return uint64(len(d.data)) }
func (d *document) StoredFieldsBytes() uint64                  { return uint64(len(d.data)) }
func (d *document) Indexed() bool                              { return true }

func (d *document) VisitFields(visit index.FieldVisitor) {
	for _, f := range d.fields {
		visit(f)
	}
}

func (d *document) AddIDField() {
	if d.fields[0].name != idField {
		d.fields = append([]*field{{name: idField, options: index.IndexField | index.StoreField, value: []byte(d.id), terms: termSet{d.id: once}}}, d.fields...)
	}
}

// field is a field whose terms are known already.
type field struct {
	name    string
	options index.FieldIndexingOptions
	value   []byte
	terms   termSet
}

func (f *field) Name() string                                     { return f.name }
func (f *field) Value() []byte                                    { return f.value }
func (f *field) ArrayPositions() []uint64                         { return nil }
func (f *field) EncodedFieldType() byte                           { return 't' }
func (f *field) Analyze()                                         {}
func (f *field) Options() index.FieldIndexingOptions              { return f.options }
func (f *field) AnalyzedLength() int                              { return 1 }
func (f *field) AnalyzedTokenFrequencies() index.TokenFrequencies { return f.terms }
func (f *field) NumPlainTextBytes() uint64                        { return uint64(len(f.value)) }

var (
	_ index.Document = (*document)(nil)
	_ index.Field    = (*field)(nil)
)

// keyOf tells records apart for replacing.
func keyOf(project, id string) string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(len(project)))
	b.WriteByte(' ')
	b.WriteString(project)
	b.WriteString(id)
	return b.String()
}

// rename gives the document another ID, before it is in a batch.
func (d *document) rename(id string) {
	if d.fields[0].name == idField && d.id != id {
		d.fields = d.fields[1:]
	}
	d.id = id
}
