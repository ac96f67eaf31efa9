package app

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/docs"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webadmin"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// Limits of the port that people reach. The API has limits of its own beside them, for requests that stay open.
const (
	maxPages    = 64
	maxPage     = 4 << 20  // bytes of a page that is made before it is written
	maxUnread   = 32 << 20 // bytes of pages that are written and not read yet
	webBodies   = 16
	webBodyTime = 5 * time.Second
)

// people is the port of people: the page and the API for their tools, either of which may be nil. They take none of each other's
// slots.
func (p ports) people(l config.WebListener, page, api http.Handler) httpserver.Options {
	root := http.NewServeMux()
	if api != nil {
		root.Handle(webapi.Prefix+"/", api)
	}
	if page != nil {
		page = httpserver.Limit(maxPages, p.metrics.Overflow("web"), httpserver.Bodies(webBodies, webBodyTime, page))
		root.Handle("/", httpserver.NewAnswers(maxUnread).Buffered(maxPage, page))
	}
	return httpserver.Options{
		Name: "web", Address: l.Address, CertFile: l.CertFile, KeyFile: l.KeyFile,
		MaxConns: shareDescriptors(descriptors()).web, IdleTimeout: time.Minute, Rejected: p.metrics.Rejected("web"),
		MaxStreams: 100, // a proxy may send all of them on one connection
		Handler:    root, Logger: p.log, DrainDelay: p.drain,
	}
}

// webParts are what listeners.web serves.
type webParts struct {
	people *forPeople
	page   http.Handler // nil: there is none
}

// newWebParts makes them; nil if there is no such port.
func (s *server) newWebParts() (*webParts, error) {
	if s.cfg.Listeners.Web.Address == "" {
		return nil, nil //nolint:nilnil // see above
	}
	files, err := newKubeconfigs(s.cfg)
	if err != nil {
		s.log.Warn("people can't download a kubeconfig", "error", err)
		files = nil
	}
	p := &webParts{people: s.newForPeople(files.forTools())}
	w := s.cfg.Web
	if w.ClientID == "" {
		return p, nil
	}
	o := web.Options{
		URL: w.URL, GitLabURL: s.cfg.GitLab.URL, ClientID: w.ClientID, ClientSecret: secretFile(w.ClientSecretFile, "web.clientSecretFile"),
		Keys: sessionKeys(w.SessionKeyFile), HTTPClient: s.clients.gitlabHTTP, Language: w.Language,
		UserState: func(user int64) (string, bool) { return s.now.Load().users.UserState(user) },
		People:    p.people, Admin: s.newWebAdmin(), CIAudience: s.jobAudience, Now: time.Now, Logger: s.log,
	}
	if files != nil {
		o.Kubeconfig, o.Cluster = files.file, files.c.Name
	}
	page, err := web.New(o)
	if err != nil {
		return nil, fmt.Errorf("setting up the page: %w", err)
	}
	p.page = page
	return p, nil
}

// forTools is file as the API asks for it; nil where none can be made.
func (k *kubeconfigs) forTools() func(ctx context.Context, variant string, namespaces []string) ([]byte, error) {
	if k == nil {
		return nil
	}
	return func(ctx context.Context, variant string, namespaces []string) ([]byte, error) {
		v, err := kubeconfig.ParseVariant(variant)
		if err != nil {
			return nil, err
		}
		return k.file(ctx, v, namespaces)
	}
}

// sessionKeys reads the keys of sessions each time, so that a new one counts at once.
func sessionKeys(path string) func() ([][]byte, error) {
	return func() ([][]byte, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		keys, err := web.ParseKeys(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return keys, nil
	}
}

// newWebAdmin returns what the pages for administrators are made of.
func (s *server) newWebAdmin() *webadmin.Admin {
	return webadmin.New(webadmin.Options{
		Group: s.cfg.Web.AdminGroup, GitLab: s.reader, View: s.view, Kube: s.clients.kube, Held: heldStore(s.clients), GitLabURL: s.cfg.GitLab.URL,
		Limits: gitlab.LimitsPerMinute(), Findings: docs.Findings(), Ends: s.ends, Hint: s.kept.inbox.Put, Now: time.Now, Logger: s.log,
		Engine: func() (clusterroles.Roles, string) {
			g := s.now.Load()
			return g.core.roles.Roles(), g.cfg.RBACSync.Mode
		},
		Keys: func() (authn.KeyStatus, bool) {
			if auth := s.now.Load().auth; auth != nil {
				return auth.KeyStatus(), true
			}
			return authn.KeyStatus{}, false
		},
	})
}

// jobAudience returns the audience of CI jobs' ID tokens; "": they are not let in.
func (s *server) jobAudience() string {
	if ci := s.now.Load().cfg.Authn.CI; ci != nil {
		return ci.Audience
	}
	return ""
}
