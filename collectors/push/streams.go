package push

import (
	"slices"
	"strings"
	"sync"

	"kemi"
)

// stream is a label set that has been checked. It is shared by all records of the stream, of all requests: nobody may change it.
type stream struct {
	labels   kemi.Labels
	severity kemi.Severity // what one of the labels says
}

// streams are the label sets that came lately, by how they were written: those that come again, as nearly all do, are neither read nor checked again. When the young
// ones have reached their share of the memory they become the old ones, which go unless they are asked for.
type streams struct {
	mu    sync.RWMutex
	young map[string]*stream
	old   map[string]*stream
	bytes int // of the young ones, about
}

// maxStreamBytes is about how much memory half of the streams may take: some ten thousand.
const maxStreamBytes = 4 << 20

// get is the stream that was written so, or nil.
func (k *streams) get(written []byte) *stream {
	k.mu.RLock()
	s, young := k.young[string(written)]
	if !young {
		s = k.old[string(written)]
	}
	k.mu.RUnlock()
	if s != nil && !young {
		k.put(string(written), s)
	}
	return s
}

func (k *streams) put(written string, s *stream) {
	n := 200 + 2*len(written) + 32*len(s.labels)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bytes += n; k.young == nil || k.bytes > maxStreamBytes {
		k.old, k.young, k.bytes = k.young, map[string]*stream{}, n
	}
	k.young[written] = s
}

// newStream is a stream of its own: nothing of it is part of a request.
func newStream(ls kemi.Labels) *stream {
	ls = slices.Clone(ls)
	n := 0
	for _, l := range ls {
		n += len(l.Name) + len(l.Value)
	}
	var b strings.Builder
	b.Grow(n)
	for _, l := range ls {
		b.WriteString(l.Name)
		b.WriteString(l.Value)
	}
	all := b.String()
	for i := range ls {
		l := &ls[i]
		n, v := len(l.Name), len(l.Value)
		l.Name, l.Value, all = all[:n], all[n:n+v], all[n+v:]
	}
	return &stream{ls, labelSeverity(ls)}
}
