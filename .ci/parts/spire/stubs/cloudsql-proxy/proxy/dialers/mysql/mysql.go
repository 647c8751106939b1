// Package mysql is an empty stand-in for a dialer that the sqlite datastore never uses.
package mysql
