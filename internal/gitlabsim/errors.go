package gitlabsim

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Error is a refusal in GitLab's words. Body is what the REST API answers.
type Error struct {
	Status int
	Body   map[string]any
}

func (e *Error) Error() string {
	for _, k := range []string{"message", "error"} {
		if v, ok := e.Body[k]; ok {
			return fmt.Sprintf("GitLab answers %d: %v", e.Status, v)
		}
	}
	return fmt.Sprintf("GitLab answers %d", e.Status)
}

func message(status int, v any) *Error {
	return &Error{Status: status, Body: map[string]any{"message": v}}
}

func invalid(attr string, problems ...string) *Error {
	return message(http.StatusBadRequest, map[string]any{attr: problems})
}

func notFound(what string) *Error {
	return message(http.StatusNotFound, strings.Join(strings.Fields("404 "+what+" Not Found"), " "))
}

func badParameter(text string) *Error {
	return &Error{Status: http.StatusBadRequest, Body: map[string]any{"error": text}}
}

// errorBody returns status and body of an error that a handler returned.
func errorBody(err error) (int, map[string]any) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status, e.Body
	}
	return http.StatusInternalServerError, map[string]any{"message": "500 Internal Server Error"}
}
