package codec

import (
	"encoding/binary"
	"math"

	"github.com/golang/snappy"

	"kemi"
)

// Encoder builds remote-write bodies. The zero Encoder builds version 2.0; V1 makes it 1.0. It is for one goroutine and meant to
// be used again and again.
type Encoder struct {
	V1 bool

	symbols map[string]uint32
	list    []byte // the symbols' fields
	body    []byte // the series' fields
	series  []byte // scratch
	out     []byte
	samples int
	meta    map[string]Metadata
}

// Samples is how many samples are in it.
func (e *Encoder) Samples() int { return e.samples }

// Size is how many bytes the body has before it is packed.
func (e *Encoder) Size() int { return len(e.list) + len(e.body) }

// ContentType is the media type of the bodies.
func (e *Encoder) ContentType() string {
	if e.V1 {
		return RemoteWrite1
	}
	return RemoteWrite2
}

// Describe says what the metric is. In version 2.0 it travels with the series of that metric that are added later.
func (e *Encoder) Describe(m Metadata) {
	if e.V1 {
		var b []byte
		b = appendUvarintField(b, 1, metadataType(m.Type))
		b = appendStringField(b, 2, m.Metric)
		b = appendStringField(b, 4, m.Help)
		b = appendStringField(b, 5, m.Unit)
		e.body = appendBytesField(e.body, 3, b)
		return
	}
	if e.meta == nil {
		e.meta = map[string]Metadata{}
	}
	e.meta[m.Metric] = m
}

func metadataType(name string) uint64 {
	for i, n := range metadataTypes {
		if n == name {
			return uint64(i)
		}
	}
	return 0
}

// Add adds samples of a series; at and values are of the same length.
func (e *Encoder) Add(ls kemi.Labels, at []kemi.Millis, values []float64) {
	b := e.series[:0]
	if e.V1 {
		b = appendRawLabels(b, ls)
	} else {
		size := 0
		for _, l := range ls {
			size += varintLen(int(e.symbol(l.Name))) + varintLen(int(e.symbol(l.Value)))
		}
		b = append(b, 1<<3|pbBytes)
		b = binary.AppendUvarint(b, uint64(size))
		for _, l := range ls {
			b = binary.AppendUvarint(b, uint64(e.symbol(l.Name)))
			b = binary.AppendUvarint(b, uint64(e.symbol(l.Value)))
		}
	}
	for i, t := range at {
		// Without the value 0 and the time 0, as protobuf has it.
		size := 0
		v := math.Float64bits(values[i])
		if v != 0 {
			size += 9
		}
		if t != 0 {
			size += 1 + uvarintLen64(uint64(t))
		}
		b = append(b, 2<<3|pbBytes, byte(size))
		if v != 0 {
			b = append(b, 1<<3|pbFixed64)
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		if t != 0 {
			b = append(b, 2<<3|pbVarint)
			b = binary.AppendUvarint(b, uint64(t))
		}
	}
	if len(e.meta) > 0 && !e.V1 {
		if m, ok := e.meta[ls.Get(kemi.MetricName)]; ok {
			var md []byte
			md = appendUvarintField(md, 1, metadataType(m.Type))
			md = appendUvarintField(md, 3, uint64(e.symbol(m.Help)))
			md = appendUvarintField(md, 4, uint64(e.symbol(m.Unit)))
			b = appendBytesField(b, 5, md)
		}
	}
	number := 5
	if e.V1 {
		number = 1
	}
	e.body = appendBytesField(e.body, number, b)
	e.series = b
	e.samples += len(at)
}

// AddPoints adds the samples of a series.
func (e *Encoder) AddPoints(p kemi.Points) { e.Add(p.Labels, p.At, p.Values) }

func (e *Encoder) symbol(s string) uint32 {
	if n, ok := e.symbols[s]; ok {
		return n
	}
	if e.symbols == nil {
		e.symbols = map[string]uint32{}
	}
	if len(e.symbols) == 0 { // the first is always the empty one
		e.symbols[""] = 0
		e.list = append(e.list, 4<<3|pbBytes, 0)
		if s == "" {
			return 0
		}
	}
	n := uint32(len(e.symbols))
	e.symbols[s] = n
	e.list = append(e.list, 4<<3|pbBytes)
	e.list = binary.AppendUvarint(e.list, uint64(len(s)))
	e.list = append(e.list, s...)
	return n
}

// Encode is the body of what was added, packed with snappy, in bytes of its own. The Encoder is empty afterwards.
func (e *Encoder) Encode() []byte {
	e.out = append(append(e.out[:0], e.list...), e.body...)
	packed := snappy.Encode(nil, e.out)
	e.Reset()
	return packed
}

// Reset empties it.
func (e *Encoder) Reset() {
	if cap(e.body) > maxKeptBuffer || len(e.symbols) > maxKeptBuffer/64 {
		*e = Encoder{V1: e.V1}
		return
	}
	clear(e.symbols)
	clear(e.meta)
	e.list, e.body, e.samples = e.list[:0], e.body[:0], 0
}

// EncodeRemoteWrite is the body of remote write 2.0 of points, packed with snappy.
func EncodeRemoteWrite(points []kemi.Points) ([]byte, error) {
	var e Encoder
	for _, p := range points {
		if len(p.At) != len(p.Values) {
			return nil, kemi.Errorf(kemi.ErrInvalid, "series %s: %d times, but %d values", describe(p.Labels), len(p.At), len(p.Values))
		}
		e.AddPoints(p)
	}
	return e.Encode(), nil
}

func uvarintLen64(u uint64) int {
	l := 1
	for ; u >= 0x80; u >>= 7 {
		l++
	}
	return l
}

func appendBytesField(dst []byte, number int, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(number<<3|pbBytes))
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendStringField(dst []byte, number int, s string) []byte {
	if s == "" {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(number<<3|pbBytes))
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendUvarintField(dst []byte, number int, u uint64) []byte {
	if u == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(number<<3|pbVarint))
	return binary.AppendUvarint(dst, u)
}
