package search

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"kemi"
)

// A block is records of one project in columns. Its bytes (docs/formats/search.md):
//
//	magic "KLB1", xxh3 (low 32 bits) of the header, length of the header, header, sections
//	header: count, for each section its length unpacked and packed, length of the bloom filter, bloom filter
//	sections, each packed with zstd (with its checksum):
//	  columns  project; dictionary of streams; names of attributes; times, stream numbers, severities; which have trace or span
//	  ids      each: how much it shares with the one before, the rest
//	  bodies   lengths, then the bytes
//	  attrs    each: trace id, span id, attributes
//
// Numbers are varints. So a histogram opens the columns only, a search for a word the columns and the bodies.
const blockMagic = "KLB1"

const (
	columnsSection = iota
	idsSection
	bodiesSection
	attrsSection
	sections
)

var errBlock = errors.New("damaged block")

var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(2<<30))
)

// encodeBlock packs records, which are of one project.
func encodeBlock(records []kemi.LogRecord, bloom []byte) []byte {
	var raw [sections][]byte
	columns := appendString(nil, records[0].Project)

	streams, numbers := map[string]uint64{}, make([]uint64, len(records))
	names := map[string]uint64{}
	var streamDict, nameDict, key []byte
	var marked byte
	for i := range records {
		r := &records[i]
		key = appendLabels(key[:0], r.Stream)
		n, ok := streams[string(key)]
		if !ok {
			n = uint64(len(streams))
			streams[string(key)] = n
			streamDict = append(streamDict, key...)
		}
		numbers[i] = n
		for _, l := range r.Attrs {
			if _, ok := names[l.Name]; !ok {
				names[l.Name] = uint64(len(names))
				nameDict = appendString(nameDict, l.Name)
			}
		}
		if r.TraceID != "" || r.SpanID != "" {
			marked = 1
		}
	}
	columns = append(binary.AppendUvarint(columns, uint64(len(streams))), streamDict...)
	columns = append(binary.AppendUvarint(columns, uint64(len(names))), nameDict...)
	columns = append(columns, marked)
	var last kemi.Nanos
	for i := range records {
		columns = binary.AppendVarint(columns, int64(records[i].At-last))
		last = records[i].At
	}
	for _, n := range numbers {
		columns = binary.AppendUvarint(columns, n)
	}
	for i := range records {
		columns = append(columns, byte(records[i].Severity))
	}
	raw[columnsSection] = columns

	prev := ""
	for i := range records {
		id := records[i].ID
		shared := 0
		for shared < len(id) && shared < len(prev) && id[shared] == prev[shared] {
			shared++
		}
		raw[idsSection] = appendString(binary.AppendUvarint(raw[idsSection], uint64(shared)), id[shared:])
		prev = id
	}
	size := 0
	for i := range records {
		raw[bodiesSection] = binary.AppendUvarint(raw[bodiesSection], uint64(len(records[i].Body)))
		size += len(records[i].Body)
	}
	raw[bodiesSection] = slices.Grow(raw[bodiesSection], size)
	for i := range records {
		raw[bodiesSection] = append(raw[bodiesSection], records[i].Body...)
	}
	if marked != 0 || len(names) > 0 {
		b := raw[attrsSection]
		for i := range records {
			r := &records[i]
			b = appendString(appendString(b, r.TraceID), r.SpanID)
			b = binary.AppendUvarint(b, uint64(len(r.Attrs)))
			for _, l := range r.Attrs {
				b = appendString(binary.AppendUvarint(b, names[l.Name]), l.Value)
			}
		}
		raw[attrsSection] = b
	}

	header := binary.AppendUvarint(nil, uint64(len(records)))
	var packed [sections][]byte
	total := 0
	for i, b := range raw {
		if len(b) > 0 {
			packed[i] = packer.EncodeAll(b, make([]byte, 0, len(b)/3+64))
		}
		header = binary.AppendUvarint(binary.AppendUvarint(header, uint64(len(b))), uint64(len(packed[i])))
		total += len(packed[i])
	}
	header = append(binary.AppendUvarint(header, uint64(len(bloom))), bloom...)

	out := make([]byte, 0, len(blockMagic)+4+binary.MaxVarintLen32+len(header)+total)
	out = append(out, blockMagic...)
	out = binary.LittleEndian.AppendUint32(out, uint32(xxh3.Hash(header)))
	out = append(binary.AppendUvarint(out, uint64(len(header))), header...)
	for _, p := range packed {
		out = append(out, p...)
	}
	return out
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendLabels(b []byte, ls kemi.Labels) []byte {
	b = binary.AppendUvarint(b, uint64(len(ls)))
	for _, l := range ls {
		b = appendString(appendString(b, l.Name), l.Value)
	}
	return b
}
