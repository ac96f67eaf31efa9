package kubectlgitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// review is who kube-apiserver says somebody is.
type review struct {
	Username string              `json:"username"`
	Groups   []string            `json:"groups"`
	Extra    map[string][]string `json:"extra"`
}

// review asks kube-apiserver who the user of the context is, by a SelfSubjectReview. It logs in if need be.
func (s *session) review(ctx context.Context) (review, error) {
	a, err := s.cluster()
	if err != nil {
		return review{}, err
	}
	in := map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
	var out struct {
		Status struct {
			UserInfo review `json:"userInfo"`
		} `json:"status"`
	}
	if err := a.ask(ctx, http.MethodPost, "apis/authentication.k8s.io/v1/selfsubjectreviews", nil, in, &out); err != nil {
		return review{}, s.withReason(ctx, s.clusterFault("who you are", err))
	}
	return out.Status.UserInfo, nil
}

// attributes are a request that somebody could make.
type attributes struct {
	Namespace   string `json:"namespace,omitempty"`
	Verb        string `json:"verb"`
	Group       string `json:"group,omitempty"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource,omitempty"`
	Name        string `json:"name,omitempty"`
}

func (a attributes) String() string {
	out := a.Verb + " " + a.Resource
	if a.Group != "" {
		out += "." + a.Group
	}
	if a.Subresource != "" {
		out += "/" + a.Subresource
	}
	if a.Name != "" {
		out += " " + a.Name
	}
	if a.Namespace != "" {
		return out + " in " + a.Namespace
	}
	return out + " in the whole cluster"
}

// access is what kube-apiserver says to a request that somebody could make.
type access struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
	Fault   string `json:"evaluationError"`
}

// access asks kube-apiserver whether the user of the context may do something, by a SelfSubjectAccessReview.
func (s *session) access(ctx context.Context, what attributes) (access, error) {
	a, err := s.cluster()
	if err != nil {
		return access{}, err
	}
	in := map[string]any{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": map[string]any{"resourceAttributes": what}}
	var out struct {
		Status access `json:"status"`
	}
	if err := a.ask(ctx, http.MethodPost, "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", nil, in, &out); err != nil {
		return access{}, s.clusterFault("whether you may "+what.String(), err)
	}
	return out.Status, nil
}

// get reads an object, or a list, as the person.
func (s *session) get(ctx context.Context, path string, query url.Values, out any) error {
	a, err := s.cluster()
	if err != nil {
		return err
	}
	return a.ask(ctx, http.MethodGet, path, query, nil, out)
}

// clusterFault says what of the cluster could not be learned, why, and what to do.
func (s *session) clusterFault(what string, err error) error {
	err = fmt.Errorf("asking %s %s: %w", s.config.Host, what, err)
	var refused *refusal
	if errors.As(err, &refused) && refused.status == http.StatusUnauthorized {
		return fmt.Errorf("%w: you are not logged in, or the cluster does not take your login: kubectl gitlab logout, then kubectl gitlab login; if that does not help, ask the cluster's administrators", err)
	}
	return err
}

// withReason adds why a login is refused: kube-apiserver tells nobody, our server tells the person.
func (s *session) withReason(ctx context.Context, err error) error {
	var refused, why *refusal
	if !errors.As(err, &refused) || refused.status != http.StatusUnauthorized {
		return err
	}
	if reason := s.server(ctx, webapi.PathWhoAmI, nil, &webapi.Identity{}); errors.As(reason, &why) && why.code != "" {
		return fmt.Errorf("%w\nthe integrator says: %s (%s)", err, why.message, why.code)
	}
	return err
}

// askServer asks our server. answered is false if there is none to ask or it does not answer; then the person was told what
// they have to know.
func (s *session) askServer(ctx context.Context, path string, query url.Values, out any) (answered bool) {
	err := s.server(ctx, path, query, out)
	if err != nil && !errors.Is(err, errNoServer) {
		s.o.note("note: %v. What follows is what the cluster alone says", err)
	}
	return err == nil
}

// server asks our server, and returns errNoServer or why it gave no answer.
func (s *session) server(ctx context.Context, path string, query url.Values, out any) error {
	a, err := s.integrator()
	if err == nil {
		err = a.ask(ctx, http.MethodGet, path, query, nil, out)
	}
	if err != nil && !errors.Is(err, errNoServer) {
		return fmt.Errorf("asking the integrator's server at %s: %w", s.extension.Server, err)
	}
	return err
}
