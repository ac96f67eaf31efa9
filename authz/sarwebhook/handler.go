// Package sarwebhook serves POST /authorize, the SubjectAccessReview webhook that kube-apiserver asks about what
// RBAC did not allow. It never allows and never denies anything: it has no opinion, and gives the reason, which
// kubectl prints to the person. It keeps no state and makes no call to GitLab or Kubernetes.
package sarwebhook

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// maxBody bounds a review; kube-apiserver's are a few hundred bytes, plus the person's groups and extra fields.
const maxBody = 1 << 20

// anonymous is kube-apiserver's name for a request without credentials.
const anonymous = "system:anonymous"

// Handler answers SubjectAccessReviews of authorization.k8s.io/v1. view returns the state to explain from; ok is
// false until the first one was read. loginHint is shown to anonymous requests even then.
//
// Tenants may create LocalSubjectAccessReviews about anybody in their namespaces, which no admission policy can refuse and
// which look here like real requests. So a reason must be fit for whoever asks there (authz.View.User).
func Handler(view func() (v authz.View, ok bool), loginHint string, now func() time.Time, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review, status, err := decode(w, r)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		v, ok := view()
		reason := "you are not logged in. " + loginHint
		if review.Spec.User != anonymous {
			reason = explain(v, ok, review.Spec, now())
		}
		log.DebugContext(r.Context(), "explained a refusal", "user", review.Spec.User, "reason", reason)
		answer := authorizationv1.SubjectAccessReview{
			TypeMeta: review.TypeMeta,
			Status:   authorizationv1.SubjectAccessReviewStatus{Reason: reason},
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.WarnContext(r.Context(), "writing a SubjectAccessReview answer", "error", err)
		}
	})
}

// explain chooses the explanation by the kind of identity, which its name tells. What it says of a CI
// ServiceAccount is in that name already.
func explain(v authz.View, ready bool, spec authorizationv1.SubjectAccessReviewSpec, now time.Time) string {
	q := question(spec)
	if ns, ok := kubename.ParseServiceAccountUser(spec.User); ok {
		return v.CIServiceAccount(ns, q)
	}
	project, isJob := kubename.ParseCIJob(spec.User)
	user, isUser := kubename.ParseUser(spec.User)
	switch {
	case !isJob && !isUser:
		return ""
	case !ready:
		return "GitLab's rights were not read yet since the integrator started. Try again in a minute."
	case isJob:
		return v.CIJob(project, q)
	}
	return v.User(user, q, now)
}

func question(spec authorizationv1.SubjectAccessReviewSpec) authz.Question {
	if a := spec.ResourceAttributes; a != nil {
		return authz.Question{Namespace: a.Namespace, Verb: a.Verb, Group: a.Group, Resource: a.Resource, Subresource: a.Subresource, Name: a.Name}
	}
	if a := spec.NonResourceAttributes; a != nil {
		return authz.Question{Verb: a.Verb}
	}
	return authz.Question{}
}

// decode reads a review and returns the HTTP status for what it refuses.
func decode(w http.ResponseWriter, r *http.Request) (*authorizationv1.SubjectAccessReview, int, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, http.StatusMethodNotAllowed, errors.New("want POST with a SubjectAccessReview")
	}
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return nil, http.StatusUnsupportedMediaType, errors.New("want Content-Type application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
			return nil, http.StatusRequestEntityTooLarge, errors.New("the review is larger than 1 MiB")
		}
		return nil, http.StatusBadRequest, errors.New("the review could not be read to its end")
	}
	review := new(authorizationv1.SubjectAccessReview)
	if err := json.Unmarshal(body, review); err != nil {
		return nil, http.StatusBadRequest, errors.New("the body is not the JSON of a SubjectAccessReview")
	}
	if review.APIVersion != authorizationv1.SchemeGroupVersion.String() || review.Kind != "SubjectAccessReview" {
		return nil, http.StatusBadRequest,
			errors.New("want kind SubjectAccessReview of authorization.k8s.io/v1: set subjectAccessReviewVersion: v1 in the API server's authorization configuration")
	}
	return review, 0, nil
}
