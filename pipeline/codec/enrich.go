package codec

import (
	"encoding/json"
	"slices"
	"sync/atomic"

	"kemi"
)

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

// HostLabel is the label that names the host of a record.
const HostLabel = "host"

// host is a value of the label host within a project.
type host struct {
	name    string
	series  int         // entries that name it; guarded by space.hostsMu
	known   []*addition // what has been added so far, each once; guarded by space.hostsMu
	current atomic.Pointer[epochAddition]
}

// addition is labels that are added to the series of a host. Of one host and one set of labels there is one addition, so that
// they are compared by address.
type addition struct {
	labels kemi.Labels
	json   []byte // "host":{…}
}

type epochAddition struct {
	epoch uint64
	added *addition // nil = nothing
}

// maxKnown bounds what is kept of a host whose labels change again and again. An addition that was let go and comes again makes new
// entries of its series, no harm but the memory.
const maxKnown = 16

// addition is the one of h with these labels.
func (sp *space) addition(h *host, ls kemi.Labels) *addition {
	if len(ls) == 0 {
		return nil
	}
	sp.hostsMu.Lock()
	defer sp.hostsMu.Unlock()
	for _, a := range h.known {
		if a.labels.Compare(ls) == 0 {
			return a
		}
	}
	name, _ := json.Marshal(h.name)
	value, _ := json.Marshal(ls)
	a := &addition{labels: slices.Clone(ls), json: slices.Concat(name, []byte(":"), value)}
	if len(h.known) == maxKnown {
		h.known = h.known[1:]
	}
	h.known = append(h.known, a)
	return a
}

// currentAddition is what the inventory says now.
func (sp *space) currentAddition(h *host, e Enricher, epoch uint64) *addition {
	if c := h.current.Load(); c != nil && c.epoch == epoch {
		return c.added
	}
	a := sp.addition(h, e.Enrich(sp.project, h.name))
	h.current.Store(&epochAddition{epoch, a})
	return a
}

// hostOf counts one more series of a host.
func (sp *space) hostOf(name string) *host {
	sp.hostsMu.Lock()
	defer sp.hostsMu.Unlock()
	h := sp.hosts[name]
	if h == nil {
		h = &host{name: name}
		sp.hosts[name] = h
	}
	h.series++
	return h
}

func (sp *space) dropHost(h *host) {
	sp.hostsMu.Lock()
	defer sp.hostsMu.Unlock()
	if h.series--; h.series == 0 && sp.hosts[h.name] == h {
		delete(sp.hosts, h.name)
	}
}

// enrichment is what is added to the series of one batch, by host: all series of a host get the same.
type enrichment struct {
	space    *space
	enricher Enricher // nil: only what header says
	epoch    uint64
	header   map[string]kemi.Labels

	active    bool // there may be something to add, or something to leave out
	byHost    map[*host]*addition
	lastHost  *host
	lastAdded *addition
}

func (e *enrichment) reset(sp *space, enricher Enricher) {
	clear(e.byHost)
	e.space, e.enricher, e.header, e.lastHost, e.lastAdded = sp, enricher, nil, nil, nil
	if enricher != nil {
		e.epoch = enricher.Epoch()
		e.active = true
		sp.enriched.Store(true)
	} else {
		e.active = sp.enriched.Load()
	}
}

// setHeader takes what a record's header says for what is added.
func (e *enrichment) setHeader(value string) error {
	if value == "" {
		return nil
	}
	var hosts map[string]kemi.Labels
	if err := json.Unmarshal([]byte(value), &hosts); err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "header %s: not JSON {host: {label: value}}: %w", HeaderEnrich, err)
	}
	e.header, e.active = hosts, true
	e.space.enriched.Store(true)
	return nil
}

// apply is the entry for the labels of s with what this batch adds. raw is the raw labels of s, or nil if s has them itself.
func (e *enrichment) apply(s *Series, raw []byte) *Series {
	if added, other := e.wants(s); other {
		return e.space.variant(s, added, raw)
	}
	return s
}

// wants is what this batch adds to s; other tells that it is not what s has.
func (e *enrichment) wants(s *Series) (added *addition, other bool) {
	if s.host == nil {
		return nil, false
	}
	if s.host != e.lastHost {
		e.lastHost, e.lastAdded = s.host, e.of(s.host)
	}
	return e.lastAdded, s.added != e.lastAdded
}

// labels are ls, which may stand in any order, as the store has them: sorted, with what this batch adds.
func (e *enrichment) labels(ls kemi.Labels, host string) kemi.Labels {
	ls = slices.Clone(ls).Normalize()
	if host == "" || e.enricher == nil {
		return ls
	}
	for _, l := range e.enricher.Enrich(e.space.project, host) {
		if !ls.Has(l.Name) {
			ls = ls.With(l.Name, l.Value)
		}
	}
	return ls
}

func (e *enrichment) of(h *host) *addition {
	a, ok := e.byHost[h]
	if ok {
		return a
	}
	if e.enricher != nil {
		a = e.space.currentAddition(h, e.enricher, e.epoch)
	} else {
		a = e.space.addition(h, e.header[h.name])
	}
	if e.byHost == nil {
		e.byHost = map[*host]*addition{}
	}
	e.byHost[h] = a
	return a
}

// value is the header that says what was added, "" if nothing.
func (e *enrichment) value() string {
	b := []byte{'{'}
	for _, a := range e.byHost {
		if a != nil {
			if len(b) > 1 {
				b = append(b, ',')
			}
			b = append(b, a.json...)
		}
	}
	if len(b) == 1 {
		return ""
	}
	return string(append(b, '}'))
}
