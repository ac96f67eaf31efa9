package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// legacyChange is a line of what versions up to 0.13 wrote: the last 20 changes of each namespace.
type legacyChange struct {
	At        time.Time `json:"at"`
	Namespace string    `json:"ns"`
	Object    string    `json:"object"`
	Action    string    `json:"action"`
	Added     []string  `json:"added"`
	Removed   []string  `json:"removed"`
	Why       string    `json:"why"`
	Cause     string    `json:"cause"`
}

func legacyBlob(kube kubernetes.Interface) store.Blob {
	return store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
}

// loadLegacy returns what such a version has written, the oldest first; nil for nothing.
func loadLegacy(ctx context.Context, kube kubernetes.Interface) (out []change, err error) {
	_, _, err = legacyBlob(kube).Load(ctx, "", func(r io.Reader) error {
		d := json.NewDecoder(bufio.NewReader(r))
		for {
			var c legacyChange
			switch err := d.Decode(&c); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			out = append(out, c.changes()...)
		}
	})
	if errors.Is(err, store.ErrNone) || errors.Is(err, store.ErrDamaged) {
		err = nil
	}
	return out, err
}

func deleteLegacy(ctx context.Context, kube kubernetes.Interface, may func(context.Context) error) error {
	b := legacyBlob(kube)
	b.Before = may
	return b.Delete(ctx)
}

var (
	legacySubject = regexp.MustCompile(`^gitlab:\d+`)
	legacyShard   = regexp.MustCompile(`-\d+$`)
	// legacyPath is a source with its path, which may have a person's name in it.
	legacyPath = regexp.MustCompile(`\b((?:group|project|user)/\d+)(?: \([^)]*\)| [^\s,;:]+)`)
)

func (c legacyChange) changes() (out []change) {
	kind, name, _ := strings.Cut(c.Object, " ")
	name = strings.TrimPrefix(name, c.Namespace+"/")
	base := change{at: c.At, namespace: c.Namespace, owner: unknownOwner, cause: c.Cause, why: impersonal(legacyPath.ReplaceAllString(c.Why, "$1"))}
	if kind != "RoleBinding" {
		if base.role = kind; kind != "Namespace" {
			base.role += "/" + name
		}
		base.what = map[string]uint8{"create": created, "delete": deleted, "update": changed, "replace": changed}[c.Action]
		return []change{base}
	}
	base.role = legacyShard.ReplaceAllString(strings.TrimPrefix(name, bindingPrefix), "")
	if name == kubename.CIRoleBinding {
		base.role = kubename.CIClusterRole
	}
	for _, list := range []struct {
		what  uint8
		names []string
	}{{gained, c.Added}, {lost, c.Removed}} {
		for _, text := range list.names {
			x := base
			x.what = list.what
			if id, ok := kubename.ParseUser(legacySubject.FindString(text)); ok {
				x.user = id
				if _, rest, ok := strings.Cut(text, " ("); ok {
					x.name = strings.TrimSuffix(rest, ")")
				}
			} else {
				x.subject = strings.Replace(text, " "+c.Namespace+"/", " ", 1)
			}
			out = append(out, x)
		}
	}
	return out
}
