package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Snapshots keeps the last Snapshot of GitLab, with the names of the namespaces, in a Blob.
type Snapshots struct{ Blob Blob }

// line is one line of the stored form: exactly one field is set. The structs of authz are written as they are, so a
// field that is added there is stored too, unless its tag says otherwise.
type line struct {
	Header  *snapshotHeader `json:"h,omitempty"`
	User    *authz.User     `json:"u,omitempty"`
	Group   *authz.Group    `json:"g,omitempty"`
	Project *authz.Project  `json:"p,omitempty"`
	Name    *nameLine       `json:"n,omitempty"`
	Missing *nameLine       `json:"m,omitempty"`
	Gap     *gapLine        `json:"gap,omitempty"`
	// Before, of the Snapshot of that name, is what differs there.
	Before *beforeLine `json:"b,omitempty"`
}

// beforeLine is one thing that the Snapshot before has otherwise, or has not.
type beforeLine struct {
	User    *authz.User    `json:"u,omitempty"`
	Group   *authz.Group   `json:"g,omitempty"`
	Project *authz.Project `json:"p,omitempty"`
	Not     string         `json:"not,omitempty"` // a SourceID
}

type snapshotHeader struct {
	Issuer     string `json:"issuer"`
	Admin      bool   `json:"admin,omitempty"`
	MissingAll string `json:"missingAll,omitempty"`
	Lines      int    `json:"lines"` // that follow
	// Before is when Stored.Before was taken; nil when that is the Snapshot itself, as it always was to versions that did
	// not store it; the zero time when there is none.
	Before *time.Time           `json:"before,omitempty"`
	Policy *authz.PolicyConfig  `json:"policy,omitempty"`
	Begun  []authz.PolicyConfig `json:"begun,omitempty"`
	Past   []rbacsync.Past      `json:"past,omitempty"`
	Gaps   bool                 `json:"gaps,omitempty"` // what the cluster lacks is known: it has a line for each source
	Jobs   map[int64]string     `json:"jobs,omitempty"`
}

type nameLine struct {
	Source string `json:"s"`
	Text   string `json:"t"`
	// UID and CreatedAt are those of rbacsync.Mark, of a namespace.
	UID       types.UID `json:"u,omitempty"`
	CreatedAt string    `json:"c,omitempty"`
}

type gapLine struct {
	Source string `json:"s"`
	authz.Gap
}

const metaTaken = "taken"

// Save stores a Snapshot. It is cheap when only the time differs.
func (s Snapshots) Save(ctx context.Context, st syncer.Stored, yield func()) error {
	return s.Blob.Save(ctx, map[string]string{metaTaken: st.Snapshot.Taken.UTC().Format(time.RFC3339Nano)}, func(w io.Writer) error {
		if yield != nil {
			w = yielding{w, yield}
		}
		return encodeSnapshot(w, st)
	})
}

// yielding lets others go first before each write.
type yielding struct {
	io.Writer
	yield func()
}

func (w yielding) Write(p []byte) (int, error) {
	w.yield()
	return w.Writer.Write(p)
}

// Load returns what is stored; nil when that is the version in have, or nothing.
func (s Snapshots) Load(ctx context.Context, have string) (*syncer.Stored, string, error) {
	var st syncer.Stored
	version, meta, err := s.Blob.Load(ctx, have, func(r io.Reader) (err error) { st, err = decodeSnapshot(r); return err })
	if errors.Is(err, ErrNone) || errors.Is(err, ErrUnchanged) {
		return nil, have, nil
	}
	if err != nil {
		return nil, have, err
	}
	if st.Snapshot.Taken, err = time.Parse(time.RFC3339Nano, meta[metaTaken]); err != nil {
		return nil, have, fmt.Errorf("loading %s: its time: %w", s.Blob.Name, err)
	}
	return &st, version, nil
}

func encodeSnapshot(w io.Writer, st syncer.Stored) error {
	s := st.Snapshot
	b := bufio.NewWriterSize(w, 16<<10)
	e := json.NewEncoder(b)
	before := difference(s, st.Before)
	h := &snapshotHeader{
		Issuer: s.Issuer, Admin: s.Admin, MissingAll: s.MissingAll, Policy: st.Policy, Begun: st.Begun, Past: st.Past, Gaps: st.Gaps != nil, Jobs: st.Jobs,
		Lines: len(s.Users) + len(s.Groups) + len(s.Projects) + len(st.Names) + len(s.Missing) + len(st.Gaps) + len(before),
	}
	switch {
	case st.Before == nil:
		h.Before = new(time.Time)
	case st.Before != s:
		h.Before = &st.Before.Taken
	}
	if err := e.Encode(line{Header: h}); err != nil {
		return err
	}
	var l line // it is used again and again, as what it refers to: there are tens of thousands, some times a minute
	put := func(next line) error {
		l = next
		return e.Encode(&l)
	}
	var user authz.User
	for _, id := range slices.Sorted(maps.Keys(s.Users)) {
		user = s.Users[id]
		if err := put(line{User: &user}); err != nil {
			return err
		}
	}
	var group authz.Group
	for _, id := range slices.Sorted(maps.Keys(s.Groups)) {
		group = s.Groups[id]
		if err := put(line{Group: &group}); err != nil {
			return err
		}
	}
	var project authz.Project
	for _, id := range slices.Sorted(maps.Keys(s.Projects)) {
		project = s.Projects[id]
		if err := put(line{Project: &project}); err != nil {
			return err
		}
	}
	var name nameLine
	for _, id := range slices.SortedFunc(maps.Keys(st.Names), authz.SourceID.Compare) {
		name = nameLine{Source: id.Label(), Text: st.Names[id]}
		if m := st.Marks[name.Text]; m.Source == id {
			name.UID, name.CreatedAt = m.UID, m.CreatedAt
		}
		if err := put(line{Name: &name}); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.Missing), authz.SourceID.Compare) {
		if err := put(line{Missing: &nameLine{Source: id.Label(), Text: s.Missing[id]}}); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(st.Gaps), authz.SourceID.Compare) {
		if err := put(line{Gap: &gapLine{id.Label(), st.Gaps[id]}}); err != nil {
			return err
		}
	}
	for i := range before {
		if err := put(line{Before: &before[i]}); err != nil {
			return err
		}
	}
	return b.Flush()
}

// difference lists what makes the Snapshot before out of the other one.
func difference(s, before *authz.Snapshot) []beforeLine {
	var out []beforeLine
	if before == nil || before == s {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(before.Users)) {
		if u, ok := s.Users[id]; !ok || !reflect.DeepEqual(u, before.Users[id]) {
			u = before.Users[id]
			out = append(out, beforeLine{User: &u})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(before.Groups)) {
		if g, ok := s.Groups[id]; !ok || !reflect.DeepEqual(g, before.Groups[id]) {
			g = before.Groups[id]
			out = append(out, beforeLine{Group: &g})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(before.Projects)) {
		if p, ok := s.Projects[id]; !ok || !reflect.DeepEqual(stored(p), stored(before.Projects[id])) {
			p = before.Projects[id]
			out = append(out, beforeLine{Project: &p})
		}
	}
	var not []authz.SourceID
	for id := range s.Users {
		if _, ok := before.Users[id]; !ok {
			not = append(not, authz.UserID(id))
		}
	}
	for id := range s.Groups {
		if _, ok := before.Groups[id]; !ok {
			not = append(not, authz.GroupID(id))
		}
	}
	for id := range s.Projects {
		if _, ok := before.Projects[id]; !ok {
			not = append(not, authz.ProjectID(id))
		}
	}
	slices.SortFunc(not, authz.SourceID.Compare)
	for _, id := range not {
		out = append(out, beforeLine{Not: id.Label()})
	}
	return out
}

// stored returns what is stored of a project.
func stored(p authz.Project) authz.Project {
	p.Variables = nil
	return p
}

// beforeOf returns an independent start for Stored.Before.
func beforeOf(h *snapshotHeader, s *authz.Snapshot) *authz.Snapshot {
	switch {
	case h.Before == nil:
		return s
	case h.Before.IsZero():
		return nil
	}
	return &authz.Snapshot{Issuer: s.Issuer, Taken: *h.Before, Users: maps.Clone(s.Users), Groups: maps.Clone(s.Groups), Projects: maps.Clone(s.Projects)}
}

// take makes the Snapshot before what the line says.
func (l *beforeLine) take(before *authz.Snapshot) {
	switch {
	case before == nil:
	case l.User != nil:
		before.Users[l.User.ID] = *l.User
	case l.Group != nil:
		before.Groups[l.Group.ID] = *l.Group
	case l.Project != nil:
		before.Projects[l.Project.ID] = *l.Project
	default:
		id, _ := authz.ParseLabel(l.Not)
		switch id.Kind {
		case authz.UserSource:
			delete(before.Users, id.ID)
		case authz.GroupSource:
			delete(before.Groups, id.ID)
		case authz.ProjectSource:
			delete(before.Projects, id.ID)
		}
	}
}

func decodeSnapshot(r io.Reader) (syncer.Stored, error) {
	return decodeLines(json.NewDecoder(bufio.NewReader(r)))
}

// decodeLines reads what encodeSnapshot wrote, and not more.
func decodeLines(d *json.Decoder) (syncer.Stored, error) {
	var first line
	if err := d.Decode(&first); err != nil {
		return syncer.Stored{}, err
	}
	if first.Header == nil {
		return syncer.Stored{}, errors.New("it does not begin with a header")
	}
	s := &authz.Snapshot{
		Issuer: first.Header.Issuer, Admin: first.Header.Admin, MissingAll: first.Header.MissingAll, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{},
		Projects: map[int64]authz.Project{}, Missing: map[authz.SourceID]string{},
	}
	st := syncer.Stored{Snapshot: s, Names: map[authz.SourceID]string{}, Policy: first.Header.Policy, Begun: first.Header.Begun, Past: first.Header.Past, Jobs: first.Header.Jobs, Marks: map[string]rbacsync.Mark{}}
	if first.Header.Gaps {
		st.Gaps = map[authz.SourceID]authz.Gap{}
	}
	for range first.Header.Lines {
		var l line
		if err := d.Decode(&l); err != nil {
			return syncer.Stored{}, err
		}
		if l.Before != nil && st.Before == nil { // what differs comes after what there is
			st.Before = beforeOf(first.Header, s)
		}
		switch {
		case l.Before != nil:
			l.Before.take(st.Before)
		case l.User != nil:
			s.Users[l.User.ID] = *l.User
		case l.Group != nil:
			s.Groups[l.Group.ID] = *l.Group
		case l.Project != nil:
			s.Projects[l.Project.ID] = *l.Project
		case l.Name != nil:
			if id, ok := authz.ParseLabel(l.Name.Source); ok {
				st.Names[id] = l.Name.Text
				if l.Name.UID != "" {
					st.Marks[l.Name.Text] = rbacsync.Mark{UID: l.Name.UID, Source: id, CreatedAt: l.Name.CreatedAt}
				}
			}
		case l.Missing != nil:
			if id, ok := authz.ParseLabel(l.Missing.Source); ok {
				s.Missing[id] = l.Missing.Text
			}
		case l.Gap != nil && st.Gaps != nil:
			if id, ok := authz.ParseLabel(l.Gap.Source); ok {
				st.Gaps[id] = l.Gap.Gap
			}
		}
	}
	if st.Before == nil {
		st.Before = beforeOf(first.Header, s)
	}
	return st, nil
}
