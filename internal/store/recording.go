package store

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Recorded is what a file of `snapshot save` holds.
type Recorded struct {
	Recording *syncer.Recording
	Cluster   string // id of the cluster, "" if it is not known
	CA        bool   // jobs are given the CA of kube-apiserver
	Scope     string // the environment whose variables GitLab showed; "": it showed none
	// Known is what else deliveries are told by; nil: it was not asked for.
	Known *ci.Known
}

// The first line of a file. A later version of the form has another number: nothing is guessed.
const (
	recordingFormat  = "gl-k8s-integrator snapshot"
	recordingVersion = 1
	// maxRecording bounds what a file unpacks to.
	maxRecording = 4 << 30
)

type recordingHead struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
}

// recordingFacts are all that is not of a size to have lines of its own.
type recordingFacts struct {
	Taken       time.Time                    `json:"taken"`
	Read        time.Time                    `json:"read"` // the Snapshot
	Cluster     string                       `json:"cluster,omitempty"`
	CA          bool                         `json:"ca,omitempty"`
	Scope       string                       `json:"scope,omitempty"`
	Known       *ci.Known                    `json:"known,omitempty"`
	Approved    map[string]bool              `json:"approved,omitempty"`
	Roles       clusterroles.Roles           `json:"roles,omitempty"`
	Exists      []existsAnswer               `json:"exists,omitempty"`
	Levels      []levelAnswer                `json:"levels,omitempty"`
	Foreign     []rbacsync.Key               `json:"foreign,omitempty"`
	Unmarked    []*rbacsync.Live             `json:"unmarked,omitempty"`
	NoTemplates bool                         `json:"noTemplates,omitempty"`
	Secrets     []string                     `json:"secrets,omitempty"` // names of those that templates copy
	Findings    []authz.Finding              `json:"findings,omitempty"`
	Variables   map[int64][]authz.CIVariable `json:"variables,omitempty"` // of the projects whose variables were read
	Stored      *time.Time                   `json:"stored,omitempty"`    // when what is remembered was taken; nil: nothing is
	Live        int                          `json:"live"`                // lines at the end
}

type existsAnswer struct {
	Source authz.SourceID `json:"source"`
	Exists bool           `json:"exists"`
}

type levelAnswer struct {
	rbacsync.Membership
	Level authz.Level `json:"level"`
}

// WriteRecording writes what `plan --offline` reads, compressed. It has no secret in it, but names of people, groups and
// projects.
func WriteRecording(w io.Writer, x Recorded) error {
	z := gzip.NewWriter(w)
	b := bufio.NewWriter(z)
	if err := encodeRecording(b, x); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return z.Close()
}

func encodeRecording(b *bufio.Writer, x Recorded) error {
	r, o, e := x.Recording, x.Recording.Observed, json.NewEncoder(b)
	f := recordingFacts{
		Taken: r.Taken, Read: r.Snapshot.Taken, Cluster: x.Cluster, CA: x.CA, Scope: x.Scope, Known: x.Known, Approved: set(slices.Collect(maps.Keys(r.Approved))), Roles: r.Roles,
		Unmarked: o.Unmarked, NoTemplates: o.NoTemplates, Findings: o.Findings, Variables: map[int64][]authz.CIVariable{}, Live: len(o.Live),
		Secrets: slices.Sorted(maps.Keys(o.Secrets)), Foreign: slices.SortedFunc(maps.Keys(o.Foreign), rbacsync.Key.Compare),
	}
	f.Foreign = slices.DeleteFunc(f.Foreign, func(k rbacsync.Key) bool { return !o.Foreign[k] })
	for id, exists := range r.Exists {
		f.Exists = append(f.Exists, existsAnswer{id, exists})
	}
	for m, l := range r.Levels {
		f.Levels = append(f.Levels, levelAnswer{m, l})
	}
	for id, p := range r.Snapshot.Projects {
		list, read := p.CIVariables()
		if !read {
			continue
		}
		list = slices.Clone(list)
		for i := range list {
			if !list[i].Marked {
				list[i].Delivery = "" // what somebody else chose may be guessed by what stands for it
			}
		}
		f.Variables[id] = list
	}
	if r.Stored != nil {
		f.Stored = &r.Stored.Snapshot.Taken
	}
	for _, v := range []any{recordingHead{recordingFormat, recordingVersion}, f} {
		if err := e.Encode(v); err != nil {
			return err
		}
	}
	if err := encodeSnapshot(b, syncer.Stored{Snapshot: r.Snapshot}); err != nil {
		return err
	}
	if r.Stored != nil {
		if err := encodeSnapshot(b, *r.Stored); err != nil {
			return err
		}
	}
	for _, l := range o.Live {
		if err := e.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

// ErrRecording says that a file can't be read as a saved snapshot.
var ErrRecording = errors.New("it is no snapshot that this version can read")

// ReadRecording reads what WriteRecording wrote.
func ReadRecording(r io.Reader) (Recorded, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return Recorded{}, fmt.Errorf("%w: %w: name a file that `snapshot save` made", ErrRecording, err)
	}
	d := json.NewDecoder(bufio.NewReader(io.LimitReader(z, maxRecording)))
	var head recordingHead
	switch err := d.Decode(&head); {
	case err != nil || head.Format != recordingFormat:
		return Recorded{}, fmt.Errorf("%w: it has another format: name a file that `snapshot save` made", ErrRecording)
	case head.Version != recordingVersion:
		return Recorded{}, fmt.Errorf("%w: its form has version %d, and this program reads %d: save it again with this version, or use the version that saved it",
			ErrRecording, head.Version, recordingVersion)
	}
	x, err := decodeRecording(d)
	if err != nil {
		return Recorded{}, fmt.Errorf("%w: it is damaged, save it again: %w", ErrRecording, err)
	}
	return x, nil
}

func decodeRecording(d *json.Decoder) (Recorded, error) {
	var f recordingFacts
	if err := d.Decode(&f); err != nil {
		return Recorded{}, err
	}
	o := &rbacsync.Observed{
		Foreign: map[rbacsync.Key]bool{}, Unmarked: f.Unmarked, NoTemplates: f.NoTemplates, Findings: f.Findings, Secrets: map[string]map[string]any{},
	}
	r := &syncer.Recording{
		Taken: f.Taken, Observed: o, Approved: map[string]string{}, Roles: f.Roles, Exists: map[authz.SourceID]bool{}, Levels: map[rbacsync.Membership]authz.Level{},
	}
	for _, k := range f.Foreign {
		o.Foreign[k] = true
	}
	for _, name := range f.Secrets {
		o.Secrets[name] = map[string]any{}
	}
	for _, a := range f.Exists {
		r.Exists[a.Source] = a.Exists
	}
	for _, a := range f.Levels {
		r.Levels[a.Membership] = a.Level
	}
	read, err := decodeLines(d)
	if err != nil {
		return Recorded{}, err
	}
	if r.Snapshot = read.Snapshot; len(r.Snapshot.Missing) == 0 {
		r.Snapshot.Missing = nil
	}
	r.Snapshot.Taken = f.Read
	for key := range f.Approved { // who approved it is not in the file
		r.Approved[key] = ""
	}
	for id, list := range f.Variables {
		if p, ok := r.Snapshot.Projects[id]; ok {
			p.Variables = &list
			r.Snapshot.Projects[id] = p
		}
	}
	if f.Stored != nil {
		st, err := decodeLines(d)
		if err != nil {
			return Recorded{}, err
		}
		st.Snapshot.Taken = *f.Stored
		r.Stored = &st
	}
	for range f.Live {
		var l rbacsync.Live
		if err := d.Decode(&l); err != nil {
			return Recorded{}, err
		}
		o.Live = append(o.Live, &l)
	}
	return Recorded{Recording: r, Cluster: f.Cluster, CA: f.CA, Scope: f.Scope, Known: f.Known}, nil
}
