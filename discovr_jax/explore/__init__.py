"""A map of all videos in the browser: one point per video, its clip on a click.

    __main__     the command
    videos       columns and features of all videos
    sources      where they come from: of_run, of_table
    projection   features -> two axes
    clips        a video of records or files -> frames -> an animation
    run_heads    what a run's heads and prototypes say of a clip
    page         Bokeh's document: points, filters, selection, the clip
    server       127.0.0.1 alone, and a token in every address
"""
