package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Snapshots keeps the last Snapshot of GitLab, with the names of the namespaces, in a Blob.
type Snapshots struct{ Blob Blob }

// line is one line of the stored form: exactly one field is set. The structs of authz are written as they are, so a
// field that is added there is stored too, unless its tag says otherwise.
type line struct {
	Header  *snapshotHeader      `json:"h,omitempty"`
	User    *authz.User          `json:"u,omitempty"`
	Group   *authz.GitLabGroup   `json:"g,omitempty"`
	Project *authz.GitLabProject `json:"p,omitempty"`
	Name    *nameLine            `json:"n,omitempty"`
	Missing *nameLine            `json:"m,omitempty"`
}

type snapshotHeader struct {
	Issuer     string `json:"issuer"`
	MissingAll string `json:"missingAll,omitempty"`
	Lines      int    `json:"lines"` // that follow
}

type nameLine struct {
	Source string `json:"s"`
	Text   string `json:"t"`
}

const metaTaken = "taken"

// Save stores a Snapshot. It is cheap when only the time differs.
func (s Snapshots) Save(ctx context.Context, st rbacsync.Stored) error {
	return s.Blob.Save(ctx, map[string]string{metaTaken: st.Snapshot.Taken.UTC().Format(time.RFC3339Nano)}, func(w io.Writer) error {
		return encodeSnapshot(w, st)
	})
}

// Load returns what is stored; nil when that is the version in have, or nothing.
func (s Snapshots) Load(ctx context.Context, have string) (*rbacsync.Stored, string, error) {
	var st rbacsync.Stored
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

func encodeSnapshot(w io.Writer, st rbacsync.Stored) error {
	s := st.Snapshot
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	if err := e.Encode(line{Header: &snapshotHeader{
		Issuer: s.Issuer, MissingAll: s.MissingAll, Lines: len(s.Users) + len(s.Groups) + len(s.Projects) + len(st.Names) + len(s.Missing),
	}}); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(s.Users)) {
		u := s.Users[id]
		if err := e.Encode(line{User: &u}); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Groups)) {
		g := s.Groups[id]
		if err := e.Encode(line{Group: &g}); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Projects)) {
		p := s.Projects[id]
		if err := e.Encode(line{Project: &p}); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(st.Names), authz.SourceID.Compare) {
		if err := e.Encode(line{Name: &nameLine{id.Label(), st.Names[id]}}); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.Missing), authz.SourceID.Compare) {
		if err := e.Encode(line{Missing: &nameLine{id.Label(), s.Missing[id]}}); err != nil {
			return err
		}
	}
	return b.Flush()
}

func decodeSnapshot(r io.Reader) (rbacsync.Stored, error) {
	d := json.NewDecoder(bufio.NewReader(r))
	var first line
	if err := d.Decode(&first); err != nil {
		return rbacsync.Stored{}, err
	}
	if first.Header == nil {
		return rbacsync.Stored{}, errors.New("it does not begin with a header")
	}
	s := &authz.Snapshot{
		Issuer: first.Header.Issuer, MissingAll: first.Header.MissingAll, Users: map[int64]authz.User{}, Groups: map[int64]authz.GitLabGroup{},
		Projects: map[int64]authz.GitLabProject{}, Missing: map[authz.SourceID]string{},
	}
	st := rbacsync.Stored{Snapshot: s, Names: map[authz.SourceID]string{}}
	for range first.Header.Lines {
		var l line
		if err := d.Decode(&l); err != nil {
			return rbacsync.Stored{}, err
		}
		switch {
		case l.User != nil:
			s.Users[l.User.ID] = *l.User
		case l.Group != nil:
			s.Groups[l.Group.ID] = *l.Group
		case l.Project != nil:
			s.Projects[l.Project.ID] = *l.Project
		case l.Name != nil:
			if id, ok := authz.ParseLabel(l.Name.Source); ok {
				st.Names[id] = l.Name.Text
			}
		case l.Missing != nil:
			if id, ok := authz.ParseLabel(l.Missing.Source); ok {
				s.Missing[id] = l.Missing.Text
			}
		}
	}
	return st, nil
}
