package scrape

import (
	"encoding/binary"
	"math"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// encoder writes series as a remote-write 2.0 body while they come, without an object for each: scrapes are large and frequent. The fields are those of
// io.prometheus.write.v2.
type encoder struct {
	symbols map[string]uint32
	list    []byte // their fields
	body    []byte // the series' fields
	scratch []byte
	refs    []uint32
	last    []pair // of the series before: what stands at the same place there is most often the same here
	out     []byte
	count   int

	metric uint32 // the symbol of the name of the series that was added last
	// What was said last of a metric: it is said with the first of its series that follow one another.
	said     metadata.Metadata
	saidOf   uint32
	saidRefs [2]uint32
}

// pair is a label and its references.
type pair struct {
	name, value       string
	nameRef, valueRef uint32
}

// The wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
)

func (e *encoder) reset() {
	if e.symbols == nil {
		e.symbols = map[string]uint32{}
	}
	clear(e.symbols)
	clear(e.last)
	e.list, e.body, e.last, e.count = e.list[:0], e.body[:0], e.last[:0], 0
	e.said, e.saidOf = metadata.Metadata{}, 0
	e.symbol("") // the first one is the empty one
}

func (e *encoder) size() int { return len(e.list) + len(e.body) }

func (e *encoder) symbol(s string) uint32 {
	if n, ok := e.symbols[s]; ok {
		return n
	}
	n := uint32(len(e.symbols))
	e.symbols[s] = n
	e.list = append(e.list, 4<<3|wireBytes)
	e.list = binary.AppendUvarint(e.list, uint64(len(s)))
	e.list = append(e.list, s...)
	return n
}

// labels are the references of ls, until the next call.
func (e *encoder) labels(ls labels.Labels) []uint32 {
	e.refs = e.refs[:0]
	i := 0
	ls.Range(func(l labels.Label) {
		if i == len(e.last) {
			e.last = append(e.last, pair{})
		}
		p := &e.last[i]
		if i++; p.name != l.Name || p.nameRef == 0 {
			p.name, p.nameRef = l.Name, e.symbol(l.Name)
		}
		if p.value != l.Value || p.valueRef == 0 {
			p.value, p.valueRef = l.Value, e.symbol(l.Value)
		}
		e.refs = append(e.refs, p.nameRef, p.valueRef)
		if l.Name == labels.MetricName {
			e.metric = p.valueRef
		}
	})
	return e.refs
}

// packed appends field 1 with references.
func packed(b []byte, refs []uint32) []byte {
	size := 0
	for _, r := range refs {
		size += varintLen(uint64(r))
	}
	b = append(b, 1<<3|wireBytes)
	b = binary.AppendUvarint(b, uint64(size))
	for _, r := range refs {
		b = binary.AppendUvarint(b, uint64(r))
	}
	return b
}

func varintLen(u uint64) int {
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

// varintField appends a field unless it is 0, as protobuf has it.
func varintField(b []byte, number int, u uint64) []byte {
	if u == 0 {
		return b
	}
	b = append(b, byte(number<<3|wireVarint))
	return binary.AppendUvarint(b, u)
}

func doubleField(b []byte, number int, f float64) []byte {
	bits := math.Float64bits(f)
	if bits == 0 {
		return b
	}
	b = append(b, byte(number<<3|wireFixed64))
	return binary.LittleEndian.AppendUint64(b, bits)
}

func bytesField(b []byte, number int, v []byte) []byte {
	b = append(b, byte(number<<3|wireBytes))
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// point is what a series has at one time: a float, or a histogram.
type point struct {
	at, start int64
	value     float64
	histogram *writev2.Histogram
}

// add adds a series with one point.
func (e *encoder) add(ls labels.Labels, p point, exemplars []exemplar.Exemplar, m metadata.Metadata) error {
	b := packed(e.scratch[:0], e.labels(ls))
	var part [64]byte
	if p.histogram != nil {
		h, err := p.histogram.Marshal()
		if err != nil {
			return err
		}
		b = bytesField(b, 3, h)
	} else {
		s := doubleField(part[:0], 1, p.value)
		s = varintField(s, 2, uint64(p.at))
		s = varintField(s, 3, uint64(p.start))
		b = bytesField(b, 2, s)
	}
	for _, x := range exemplars {
		// Its labels are few and unlike those of series.
		var refs []uint32
		x.Labels.Range(func(l labels.Label) { refs = append(refs, e.symbol(l.Name), e.symbol(l.Value)) })
		s := packed(nil, refs)
		s = doubleField(s, 2, x.Value)
		s = varintField(s, 3, uint64(x.Ts))
		b = bytesField(b, 4, s)
	}
	if !m.IsEmpty() && (m != e.said || e.metric != e.saidOf) {
		if m != e.said {
			e.said, e.saidRefs = m, [2]uint32{e.symbol(m.Help), e.symbol(m.Unit)}
		}
		e.saidOf = e.metric
		s := varintField(part[:0], 1, uint64(writev2.FromMetadataType(m.Type)))
		s = varintField(s, 3, uint64(e.saidRefs[0]))
		s = varintField(s, 4, uint64(e.saidRefs[1]))
		b = bytesField(b, 5, s)
	}
	e.body = bytesField(e.body, 5, b)
	e.scratch = b
	e.count++
	return nil
}

// pack is the body, packed with snappy, appended to nothing of dst but its memory.
func (e *encoder) pack(dst []byte) []byte {
	e.out = append(append(e.out[:0], e.list...), e.body...)
	return snappy.Encode(dst[:cap(dst)], e.out)
}
