package promql

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"kemi"
)

const (
	maxReadRequest = 8 << 20 // bytes, packed or unpacked
	maxFrame       = 1 << 20 // bytes of chunks in one frame of a streamed answer, about
)

// read is Prometheus' remote read: whole samples, or chunks as a stream if the client takes them.
func (a *API) read(w http.ResponseWriter, r *http.Request, id kemi.Identity) {
	if err := a.serveRead(w, r, id); err != nil {
		kemi.WriteError(w, kemi.DialectText, err)
	}
}

func (a *API) serveRead(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	req, err := readRequest(r)
	if err != nil {
		return err
	}
	ticket, err := a.o.Gate.Enter(r.Context(), id)
	if err != nil {
		return err
	}
	defer ticket.Leave()
	queries := make([][]*labels.Matcher, len(req.Queries))
	for i, q := range req.Queries {
		if queries[i], err = readMatchers(q.Matchers); err != nil {
			return err
		}
	}
	if a.o.Chunks != nil {
		for _, t := range req.AcceptedResponseTypes { // the first that is known counts
			if t == prompb.ReadRequest_STREAMED_XOR_CHUNKS {
				return a.streamChunks(w, r, id, req, queries)
			}
			if t == prompb.ReadRequest_SAMPLES {
				break
			}
		}
	}
	return a.readSamples(w, r, id, req, queries)
}

func readRequest(r *http.Request) (*prompb.ReadRequest, error) {
	packed, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxReadRequest))
	if err != nil {
		return nil, fmt.Errorf("remote read: body: %w", err)
	}
	if n, err := snappy.DecodedLen(packed); err != nil || n > maxReadRequest {
		return nil, kemi.Errorf(kemi.ErrInvalid, "remote read: body of %d bytes: is not snappy of at most %d bytes", len(packed), maxReadRequest)
	}
	body, err := snappy.Decode(nil, packed)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "remote read: body of %d bytes: is not snappy: %w", len(packed), err)
	}
	req := &prompb.ReadRequest{}
	if err := req.Unmarshal(body); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "remote read: body: is no prometheus.ReadRequest: %w", err)
	}
	return req, nil
}

func readMatchers(in []*prompb.LabelMatcher) ([]*labels.Matcher, error) {
	kinds := map[prompb.LabelMatcher_Type]labels.MatchType{
		prompb.LabelMatcher_EQ: labels.MatchEqual, prompb.LabelMatcher_NEQ: labels.MatchNotEqual,
		prompb.LabelMatcher_RE: labels.MatchRegexp, prompb.LabelMatcher_NRE: labels.MatchNotRegexp,
	}
	out := make([]*labels.Matcher, 0, len(in))
	for _, m := range in {
		kind, ok := kinds[m.Type]
		if !ok || m.Name == "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "remote read: matcher of label %q: type %d: must name a label and be one of EQ, NEQ, RE, NRE", m.Name, m.Type)
		}
		lm, err := labels.NewMatcher(kind, m.Name, m.Value)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "remote read: matcher of label %q: value %q: %w", m.Name, m.Value, err)
		}
		out = append(out, lm)
	}
	return out, nil
}

func readHints(h *prompb.ReadHints) *storage.SelectHints {
	if h == nil {
		return nil
	}
	return &storage.SelectHints{Start: h.StartMs, End: h.EndMs, Step: h.StepMs, Func: h.Func, Grouping: h.Grouping, Range: h.RangeMs, By: h.By}
}

func (a *API) readSamples(w http.ResponseWriter, r *http.Request, id kemi.Identity, req *prompb.ReadRequest, queries [][]*labels.Matcher) error {
	res := prompb.ReadResponse{Results: make([]*prompb.QueryResult, len(queries))}
	samples := 0
	for i, ms := range queries {
		var err error
		if res.Results[i], err = a.queryResult(r, id, req.Queries[i], ms, &samples); err != nil {
			return err
		}
	}
	b, err := res.Marshal()
	if err != nil {
		return fmt.Errorf("remote read: %w", err)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Content-Encoding", "snappy")
	_, _ = w.Write(snappy.Encode(nil, b))
	return nil
}

func (a *API) queryResult(r *http.Request, id kemi.Identity, pq *prompb.Query, ms []*labels.Matcher, samples *int) (*prompb.QueryResult, error) {
	q, err := a.o.Source.Queryable(id).Querier(pq.StartTimestampMs, pq.EndTimestampMs)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	out := &prompb.QueryResult{}
	set := q.Select(r.Context(), false, readHints(pq.Hints), ms...)
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		ts := &prompb.TimeSeries{Labels: prompb.FromLabels(s.Labels(), nil)}
		it = s.Iterator(it)
		for k := it.Next(); k != chunkenc.ValNone; k = it.Next() {
			if *samples++; *samples > a.cfg.MaxReadSamples {
				return nil, kemi.Errorf(kemi.ErrInvalid, "remote read: exceeded sample limit (%d): ask for less, or for streamed chunks", a.cfg.MaxReadSamples)
			}
			switch k {
			case chunkenc.ValFloat:
				t, v := it.At()
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: t, Value: v})
			case chunkenc.ValHistogram:
				t, h := it.AtHistogram(nil)
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(t, h))
			case chunkenc.ValFloatHistogram:
				t, h := it.AtFloatHistogram(nil)
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(t, h))
			}
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
		out.Timeseries = append(out.Timeseries, ts)
	}
	return out, set.Err()
}

// streamChunks writes frames: the length as a varint, the CRC-32C, and a prometheus.ChunkedReadResponse with chunks of one series.
func (a *API) streamChunks(w http.ResponseWriter, r *http.Request, id kemi.Identity, req *prompb.ReadRequest, queries [][]*labels.Matcher) error {
	w.Header().Set("Content-Type", "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse")
	f := &frameWriter{w: w, flush: http.NewResponseController(w)}
	for i, ms := range queries {
		err := a.streamQuery(f, r, id, req.Queries[i], int64(i), ms)
		if err != nil && f.began {
			// An answer that just ended would pass for whole.
			if r.Context().Err() == nil {
				a.o.Log.Error("remote read broken off", "err", err)
			}
			panic(http.ErrAbortHandler) //nolint:forbidigo // how net/http breaks an answer off
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *API) streamQuery(f *frameWriter, r *http.Request, id kemi.Identity, pq *prompb.Query, index int64, ms []*labels.Matcher) error {
	q, err := a.o.Chunks.ChunkQueryable(id).ChunkQuerier(pq.StartTimestampMs, pq.EndTimestampMs)
	if err != nil {
		return err
	}
	defer q.Close()
	set := q.Select(r.Context(), true, readHints(pq.Hints), ms...)
	var frame []prompb.Chunk
	for set.Next() {
		s := set.At()
		ls := prompb.FromLabels(s.Labels(), nil)
		send := func() error {
			if len(frame) == 0 {
				return nil
			}
			res := &prompb.ChunkedReadResponse{QueryIndex: index, ChunkedSeries: []*prompb.ChunkedSeries{{Labels: ls, Chunks: frame}}}
			b, err := res.Marshal()
			frame = frame[:0]
			if err != nil {
				return err
			}
			return f.write(b)
		}
		size := 0
		it := s.Iterator(nil)
		for it.Next() {
			c := it.At()
			if c.Chunk == nil {
				return errors.New("remote read: a chunk without data")
			}
			// What a chunk is coded in may be used again for the next one.
			data := slices.Clone(c.Chunk.Bytes())
			frame = append(frame, prompb.Chunk{MinTimeMs: c.MinTime, MaxTimeMs: c.MaxTime, Type: prompb.Chunk_Encoding(c.Chunk.Encoding()), Data: data})
			if size += len(data); size >= maxFrame {
				size = 0
				if err := send(); err != nil {
					return err
				}
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
		if err := send(); err != nil {
			return err
		}
	}
	return set.Err()
}

type frameWriter struct {
	w     io.Writer
	flush *http.ResponseController
	began bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (f *frameWriter) write(b []byte) error {
	f.began = true
	head := binary.AppendUvarint(nil, uint64(len(b)))
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(b, castagnoli))
	if _, err := f.w.Write(append(head, b...)); err != nil {
		return err
	}
	return f.flush.Flush()
}
