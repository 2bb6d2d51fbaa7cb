/* pyconfig.h - what the stable ABI of Python needs to know of a 64-bit Linux.
 *
 * Not from CPython, where configure writes this file; all other headers here are.
 */
#ifndef Py_PYCONFIG_H
#define Py_PYCONFIG_H

#ifndef Py_LIMITED_API
#error "these headers serve the stable ABI only"
#endif

#define SIZEOF_VOID_P  __SIZEOF_POINTER__
#define SIZEOF_SIZE_T  __SIZEOF_SIZE_T__
#define SIZEOF_LONG    __SIZEOF_LONG__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__

#define HAVE_LONG_LONG   1
#define HAVE_SSIZE_T     1
#define HAVE_STDDEF_H    1
#define HAVE_SYS_STAT_H  1
#define HAVE_SYS_TIME_H  1
#define HAVE_WCHAR_H     1
#define HAVE_STAT        1
#define WITH_THREAD      1

#endif
